// Attention of one new token of each document to its cache: keys and values are read once, so memory bandwidth is the limit.
//
// Shapes: S documents, L slots of a cache, H query heads, G key/value heads, R = H / G, P head width.
#include <vector>

#include "step.h"

namespace tandem {
namespace {

constexpr int64_t PIECE = 256;  // cached tokens that are worth a task of their own

template <class T>
void norm_head(const void* weight, int64_t P, float eps, float* x) {
  const float scale = 1 / std::sqrt(dot(x, x, P) / P + eps);
  for (int64_t p = 0; p < P; ++p) x[p] = widen(narrow<T>(x[p] * scale * widen(((const T*)weight)[p])));
}

// Channels i and i + pairs turn by position · frequency.
template <class T>
void turn(const Place& s, int64_t position, float* x) {
  const int64_t half = s.pairs;
  const float amplitude = s.amplitude;
  for (int64_t i = 0; i < half; ++i) {
    const float angle = position * s.frequencies[i], c = amplitude * std::cos(angle), n = amplitude * std::sin(angle);
    const float first = x[i], second = x[half + i];
    x[i] = widen(narrow<T>(first * c - second * n)), x[half + i] = widen(narrow<T>(second * c + first * n));
  }
}

template <class T>
void place(const Place& s, const Team& team) {
  const int64_t heads = s.H + 2 * s.G;
  const auto mine = team.share(s.S * heads);
  std::vector<float> x(s.P);
  for (int64_t task = mine.first; task < mine.last; ++task) {
    const int64_t d = task / heads, head = task % heads, position = s.positions[d];
    const T* from = (const T*)s.in + task * s.P;
    const int64_t slot = (d * s.L + position) * s.G;
    if (head >= s.H + s.G) {
      std::copy(from, from + s.P, (T*)s.v + (slot + head - s.H - s.G) * s.P);
      continue;
    }
    const bool is_query = head < s.H;
    const void* norm = is_query ? s.q_norm : s.k_norm;
    for (int64_t p = 0; p < s.P; ++p) x[p] = widen(from[p]);
    if (norm && s.norm_first) norm_head<T>(norm, s.P, s.eps, x.data());
    turn<T>(s, position, x.data());
    if (norm && !s.norm_first) norm_head<T>(norm, s.P, s.eps, x.data());
    T* to = is_query ? (T*)s.q + (d * s.H + head) * s.P : (T*)s.k + (slot + head - s.H) * s.P;
    for (int64_t p = 0; p < s.P; ++p) to[p] = narrow<T>(x[p]);
  }
  team.meet();
}

// Some cached tokens of one document, for all query heads of one key/value head.
struct Piece {
  int64_t document, group, first, count;
};

// What a piece adds to each of its R heads: sum_l e^(score_l - top) v_l, with the sum of the weights and the top.
struct Partial {
  float *value, *sum, *top;  // (R, P), (R), (R)
};

std::vector<Piece> pieces_of(const Attend& s) {
  std::vector<Piece> pieces;
  for (int64_t d = 0; d < s.S; ++d)
    for (int64_t g = 0; g < s.G; ++g)
      for (int64_t first = 0; first <= s.positions[d]; first += PIECE)
        pieces.push_back({d, g, first, std::min(PIECE, s.positions[d] + 1 - first)});
  return pieces;
}

template <class T>
void attend(const Attend& s, const Piece& piece, Partial out) {
  const int64_t R = s.H / s.G, P = s.P, stride = s.G * P;
  const int64_t at = (piece.document * s.L + piece.first) * stride + piece.group * P;
  const T *q = (const T*)s.q + (piece.document * s.H + piece.group * R) * P, *k = (const T*)s.k + at;
  const T* v = (const T*)s.v + at;
  std::vector<float> query(R * P), score(R * piece.count), row(P);
  for (int64_t i = 0; i < R * P; ++i) query[i] = float(s.scale) * widen(q[i]);
  for (int64_t l = 0; l < piece.count; ++l) {
    load(k + l * stride, P, 1, P, row.data(), P);
    for (int64_t r = 0; r < R; ++r) score[r * piece.count + l] = dot(query.data() + r * P, row.data(), P);
  }
  for (int64_t r = 0; r < R; ++r) {
    float* weight = score.data() + r * piece.count;
    out.top[r] = *std::max_element(weight, weight + piece.count);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t l = 0; l < piece.count; ++l) sum += weight[l] = fast_exp(weight[l] - out.top[r]);
    out.sum[r] = sum;
  }
  std::fill(out.value, out.value + R * P, 0.0f);
  for (int64_t l = 0; l < piece.count; ++l) {
    load(v + l * stride, P, 1, P, row.data(), P);
    for (int64_t r = 0; r < R; ++r)
      for (int64_t p = 0; p < P; ++p) out.value[r * P + p] += score[r * piece.count + l] * row[p];
  }
}

// One document's heads of one group, from its pieces [begin, end).
template <class T, class At>
void join(const Attend& s, const Piece& piece, int64_t begin, int64_t end, const At& partial) {
  std::vector<float> total(s.P);
  const int64_t R = s.H / s.G;
  for (int64_t r = 0; r < R; ++r) {
    float top = -INFINITY, sum = 0;
    for (int64_t i = begin; i < end; ++i) top = std::max(top, partial(i).top[r]);
    std::fill(total.begin(), total.end(), 0.0f);
    for (int64_t i = begin; i < end; ++i) {
      const float share = fast_exp(partial(i).top[r] - top);
      sum += share * partial(i).sum[r];
      for (int64_t p = 0; p < s.P; ++p) total[p] += share * partial(i).value[r * s.P + p];
    }
    T* to = (T*)s.y + (piece.document * s.H + piece.group * R + r) * s.P;
    for (int64_t p = 0; p < s.P; ++p) to[p] = narrow<T>(total[p] / sum);
  }
}

template <class T>
void attention(const Attend& s, const Team& team) {
  const auto pieces = pieces_of(s);
  const int64_t R = s.H / s.G, count = pieces.size(), size = R * (s.P + 2);
  const auto partial = [&](int64_t i) {
    float* value = s.scratch + i * size;
    return Partial{value, value + R * s.P, value + R * s.P + R};
  };
  for (int64_t i = team.index; i < count; i += team.size) attend<T>(s, pieces[i], partial(i));
  team.meet();
  int64_t group = 0;
  for (int64_t begin = 0, end; begin < count; begin = end, ++group) {
    end = begin + 1;
    while (end < count && pieces[end].first > 0) ++end;  // the pieces of one group follow each other
    if (group % team.size == team.index) join<T>(s, pieces[begin], begin, end, partial);
  }
  team.meet();
}

}  // namespace

void run(const Place& s, const Team& team) { s.format == BFLOAT ? place<bf16>(s, team) : place<float>(s, team); }
void run(const Attend& s, const Team& team) {
  s.format == BFLOAT ? attention<bf16>(s, team) : attention<float>(s, team);
}

}  // namespace tandem
