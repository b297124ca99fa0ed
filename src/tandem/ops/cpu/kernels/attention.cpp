// Attention of one new token of each document to its cache: keys and values are read once, so memory bandwidth is the limit.
//
// Shapes: S documents, L slots of a cache, H query heads, G key/value heads, R = H / G, P head width.
#include <omp.h>

#include <vector>

#include "tile.h"

namespace tandem {
namespace {

constexpr int64_t PIECE = 256;  // cached tokens that are worth a task of their own

struct Shape {
  int64_t S, L, H, G, P;
  const int64_t* lengths;  // tokens that each document's slots hold
  float scale;             // of the scores
  int64_t heads() const { return H / G; }
};

// Some cached tokens of one document, for all query heads of one key/value head.
struct Piece {
  int64_t document, group, first, count;
};

// What a piece adds to each of its R heads: sum_l e^(score_l - top) v_l, with the sum of the weights and the top.
struct Partial {
  float *value, *sum, *top;  // (R, P), (R), (R)
};

std::vector<Piece> pieces_of(const Shape& s) {
  std::vector<Piece> pieces;
  for (int64_t d = 0; d < s.S; ++d)
    for (int64_t g = 0; g < s.G; ++g)
      for (int64_t first = 0; first < s.lengths[d]; first += PIECE)
        pieces.push_back({d, g, first, std::min(PIECE, s.lengths[d] - first)});
  return pieces;
}

template <class T>
void attend(const Shape& s, const Piece& piece, const T* q, const T* k, const T* v, Partial out) {
  const int64_t R = s.heads(), P = s.P, stride = s.G * P;
  const int64_t at = (piece.document * s.L + piece.first) * stride + piece.group * P;
  std::vector<float> query(R * P), score(R * piece.count), row(P);
  for (int64_t i = 0; i < R * P; ++i) query[i] = s.scale * widen(q[(piece.document * s.H + piece.group * R) * P + i]);
  for (int64_t l = 0; l < piece.count; ++l) {
    load(k + at + l * stride, P, 1, P, row.data(), P);
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
    load(v + at + l * stride, P, 1, P, row.data(), P);
    for (int64_t r = 0; r < R; ++r)
      for (int64_t p = 0; p < P; ++p) out.value[r * P + p] += score[r * piece.count + l] * row[p];
  }
}

// y = softmax(scale q k^T) v.
template <class T>
void attention_step(const Shape& s, const T* q, const T* k, const T* v, T* y) {
  const auto pieces = pieces_of(s);
  const int64_t R = s.heads(), count = pieces.size(), size = R * (s.P + 2);
  std::vector<float> made(count * size);
  const auto partial = [&](int64_t i) {
    float* value = made.data() + i * size;
    return Partial{value, value + R * s.P, value + R * s.P + R};
  };
#pragma omp parallel for schedule(static) if (count > 1)
  for (int64_t i = 0; i < count; ++i) attend(s, pieces[i], q, k, v, partial(i));
  std::vector<float> total(s.P);
  for (int64_t begin = 0, end; begin < count; begin = end) {
    end = begin + 1;
    while (end < count && pieces[end].first > 0) ++end;  // the pieces of one group follow each other
    for (int64_t r = 0; r < R; ++r) {
      float top = -INFINITY, sum = 0;
      for (int64_t i = begin; i < end; ++i) top = std::max(top, partial(i).top[r]);
      std::fill(total.begin(), total.end(), 0.0f);
      for (int64_t i = begin; i < end; ++i) {
        const float share = fast_exp(partial(i).top[r] - top);
        sum += share * partial(i).sum[r];
        for (int64_t p = 0; p < s.P; ++p) total[p] += share * partial(i).value[r * s.P + p];
      }
      T* to = y + (pieces[begin].document * s.H + pieces[begin].group * R + r) * s.P;
      for (int64_t p = 0; p < s.P; ++p) to[p] = narrow<T>(total[p] / sum);
    }
  }
}

}  // namespace
}  // namespace tandem

// `sizes`: S, L, H, G, P. Every document holds at least one token.
extern "C" void tandem_attention_step(const int64_t* sizes, const int64_t* lengths, float scale, int is_narrow,
                                      const void* q, const void* k, const void* v, void* y) {
  const tandem::Shape s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], lengths, scale};
  using tandem::bf16;
  if (is_narrow)
    tandem::attention_step(s, (const bf16*)q, (const bf16*)k, (const bf16*)v, (bf16*)y);
  else
    tandem::attention_step(s, (const float*)q, (const float*)k, (const float*)v, (float*)y);
}
