// Products of a few rows with all weights, and what runs over rows between them.
#include <vector>

#include "products.h"
#include "step.h"

namespace tandem {
namespace {

// Rows [first, last) of the weights; a pair of them is read once for all documents.
template <int M, class T, class W>
void tile(const Linear& s, const Rows<T, W>& x, int64_t document, int64_t o, int64_t rows) {
  float out[M * 2];
  const W* w = (const W*)s.weight.data + o * s.D;
  if (rows == 2)
    dots<M, 2>(x.row(document), w, s.D, out);
  else
    dots<M, 1>(x.row(document), w, s.D, out);
  for (int64_t m = 0; m < M; ++m)
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = o + r;
      const float scale = s.weight.scale ? s.weight.scale[at] * x.scale(document + m) : 1.0f;
      T made = narrow<T>(scale * out[m * rows + r]);
      if (s.bias) made = narrow<T>(widen(made) + widen(((const T*)s.bias)[at]));
      ((T*)s.y)[(document + m) * s.O + at] = made;
    }
}

template <class T, class W>
void linear(const Linear& s, const Team& team) {
  const Rows<T, W> x((const T*)s.x, s.S, s.D);
  const auto mine = team.share(s.O, 2);
  const int64_t step = s.S == 1 ? 1 : 2;
  for (int64_t o = mine.first, rows; o < mine.last; o += rows) {
    rows = std::min(step, mine.last - o);
    in_tiles(s.S, [&](int64_t document, auto M) { tile<M>(s, x, document, o, rows); });
  }
  team.meet();
}

template <class T, class W>
void embed(const Embed& s, const Team& team) {
  const auto mine = team.share(s.S);
  for (int64_t d = mine.first; d < mine.last; ++d) {
    const W* row = (const W*)s.table.data + s.tokens[d] * s.D;
    const float scale = s.table.scale ? s.table.scale[s.tokens[d]] : 1.0f;
    for (int64_t i = 0; i < s.D; ++i)
      ((T*)s.x)[d * s.D + i] = narrow<T>(widen(narrow<T>(widen(row[i]) * scale)) * float(s.scale));
  }
  team.meet();
}

template <class T>
void add_norm(const AddNorm& s, const Team& team) {
  std::vector<float> u(s.D);
  const auto mine = team.share(s.S);
  const float by = s.scale, gain = s.gain;
  for (int64_t d = mine.first; d < mine.last; ++d) {
    T* x = (T*)s.x + d * s.D;
    const T *y = (const T*)s.y + d * s.D, *weight = (const T*)s.weight;
    if (s.y)
      for (int64_t i = 0; i < s.D; ++i) x[i] = narrow<T>(widen(x[i]) + by * widen(y[i]));
    if (!s.out) continue;
    for (int64_t i = 0; i < s.D; ++i) u[i] = widen(x[i]);
    const float scale = 1 / std::sqrt(dot(u.data(), u.data(), s.D) / s.D + float(s.eps));
    for (int64_t i = 0; i < s.D; ++i)
      ((T*)s.out)[d * s.D + i] = narrow<T>(widen(narrow<T>(u[i] * scale * widen(weight[i]))) * gain);
  }
  team.meet();
}

template <class T>
void swiglu(const SwiGLU& s, const Team& team) {
  const auto mine = team.share(s.F, LANES);
  for (int64_t d = 0; d < s.S; ++d) {
    const T *gate = (const T*)s.x + d * 2 * s.F, *up = gate + s.F;
#pragma omp simd
    for (int64_t f = mine.first; f < mine.last; ++f) {
      const float z = widen(gate[f]);
      ((T*)s.y)[d * s.F + f] = narrow<T>(z * sigmoid(z) * widen(up[f]));
    }
  }
  team.meet();
}

}  // namespace

void run(const Embed& s, const Team& team) { TANDEM_BY_FORMATS(embed, s, s.table.format) }
void run(const Linear& s, const Team& team) { TANDEM_BY_FORMATS(linear, s, s.weight.format) }
void run(const AddNorm& s, const Team& team) {
  s.format == BFLOAT ? add_norm<bf16>(s, team) : add_norm<float>(s, team);
}
void run(const SwiGLU& s, const Team& team) { s.format == BFLOAT ? swiglu<bf16>(s, team) : swiglu<float>(s, team); }

}  // namespace tandem
