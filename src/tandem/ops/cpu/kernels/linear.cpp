// Products of a few rows with all weights, and what runs over rows between them.
#include <vector>

#include "products.h"
#include "step.h"

namespace tandem {
namespace {

constexpr int64_t BLOCK = 32;  // outputs that are finished together

// `count` outputs from `first` on, of all documents; a pair of rows is read once for all of them. sums: (S, BLOCK).
template <class T, class W>
void multiply(const Linear& s, const Rows<T, W>& x, int64_t first, int64_t count, float* sums) {
  const W* w = (const W*)s.weight.data + first * s.D;
  const int64_t pairs = s.S == 1 ? 0 : count / 2;
  for (int64_t o = 0; o < 2 * pairs; o += 2)
    in_tiles(s.S, [&](int64_t d, auto M) {
      float out[2 * M];
      dots<M, 2>(x.row(d), w + o * s.D, s.D, s.D, out);
      for (int m = 0; m < M; ++m) std::memcpy(sums + (d + m) * BLOCK + o, out + 2 * m, 2 * sizeof(float));
    });
  for (int64_t o = 2 * pairs; o < count; ++o)
    in_tiles(s.S, [&](int64_t d, auto M) {
      float out[M];
      dots<M, 1>(x.row(d), w + o * s.D, s.D, s.D, out);
      for (int m = 0; m < M; ++m) sums[(d + m) * BLOCK + o] = out[m];
    });
}

// Scales, rounds and adds the bias.
template <class T>
void finish(const Linear& s, int64_t first, int64_t count, float by, const float* sums, T* y) {
  const float* scale = s.weight.scale ? s.weight.scale + first : nullptr;
  if (scale)
    for (int64_t o = 0; o < count; ++o) y[o] = narrow<T>(sums[o] * (scale[o] * by));
  else
    for (int64_t o = 0; o < count; ++o) y[o] = narrow<T>(sums[o]);
  if (!s.bias) return;
  const T* bias = (const T*)s.bias + first;
  for (int64_t o = 0; o < count; ++o) y[o] = narrow<T>(widen(y[o]) + widen(bias[o]));
}

template <class T, class W>
void linear(const Linear& s, const Team& team) {
  const Rows<T, W> x((const T*)s.x, s.S, s.D);
  const auto mine = team.share(s.O, 2);
  std::vector<float> sums(s.S * BLOCK);
  for (int64_t o = mine.first; o < mine.last; o += BLOCK) {
    const int64_t count = std::min(BLOCK, mine.last - o);
    multiply(s, x, o, count, sums.data());
    for (int64_t d = 0; d < s.S; ++d)
      finish(s, o, count, x.scale(d), sums.data() + d * BLOCK, (T*)s.y + d * s.O + o);
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
    const int64_t width = s.D / s.groups;
    for (int64_t g = 0; g < s.D; g += width) {
      const float scale = 1 / std::sqrt(dot(u.data() + g, u.data() + g, width) / width + float(s.eps));
      for (int64_t i = g; i < g + width; ++i)
        ((T*)s.out)[d * s.D + i] = narrow<T>(widen(narrow<T>(u[i] * scale * widen(weight[i]))) * gain);
    }
  }
  team.meet();
}

template <class T>
void activate(const Activate& s, const Team& team) {
  const auto mine = team.share(s.F, LANES);
  for (int64_t d = 0; d < s.S; ++d) {
    const T *x = (const T*)s.x + d * s.F * (s.function == SWIGLU ? 2 : 1), *up = x + s.F;
    T* y = (T*)s.y + d * s.F;
    if (s.function == RELU2) {
      for (int64_t f = mine.first; f < mine.last; ++f) {
        const float above = std::max(widen(x[f]), 0.0f);
        y[f] = narrow<T>(above * above);
      }
      continue;
    }
#pragma omp simd
    for (int64_t f = mine.first; f < mine.last; ++f) {
      const float z = widen(x[f]);
      y[f] = narrow<T>(z * sigmoid(z) * widen(up[f]));
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
void run(const Activate& s, const Team& team) {
  s.format == BFLOAT ? activate<bf16>(s, team) : activate<float>(s, team);
}

}  // namespace tandem
