// Rotary positions of rotary.py: each token's angles are found once and turn all of its heads.
//
// Shapes: T tokens, H heads, P head width, K pairs of channels that turn.
#include <array>
#include <cmath>

#include "tile.h"

namespace tandem {
namespace {

// Cosine and sine of many angles, errors below 1e-7 up to 1e6 radians: reduced to a quarter turn in double, then polynomials.
void cosines(const float* angle, int64_t count, float amplitude, float* cosine, float* sine) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const double quarters = std::nearbyint(angle[i] * 0.63661977236758134308);
    const float r = float(angle[i] - quarters * 1.57079632679489661923), s = r * r;
    const float c = 1 + s * (-0.5f + s * (4.16666418707e-2f + s * (-1.38887875825e-3f + s * 2.44332571e-5f)));
    const float n = r + r * s * (-1.66666655113e-1f + s * (8.33216076255e-3f + s * -1.95152959e-4f));
    const int turn = int(int64_t(quarters) & 3);
    const float a = turn & 1 ? n : c, b = turn & 1 ? c : n;
    cosine[i] = amplitude * (turn == 1 || turn == 2 ? -a : a);
    sine[i] = amplitude * (turn >= 2 ? -b : b);
  }
}

// `direction` is -1 for the backward pass: the inverse of a rotation is its transpose.
template <class T>
void rotary(int64_t tokens, int64_t H, int64_t P, int64_t K, int64_t stride, float amplitude, float direction,
            const int64_t* positions, const float* frequencies, const T* x, T* y) {
#pragma omp parallel if (tokens * H * P > 16384)
  {
    std::vector<float> angle(K), cosine(K), sine(K);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t k = 0; k < K; ++k) angle[k] = float(positions[t]) * frequencies[k];
      cosines(angle.data(), K, amplitude, cosine.data(), sine.data());
      for (int64_t k = 0; k < K; ++k) sine[k] *= direction;
      for (int64_t h = 0; h < H; ++h) {
        const T* from = x + t * stride + h * P;
        T* to = y + (t * H + h) * P;
#pragma omp simd
        for (int64_t k = 0; k < K; ++k) {
          const float first = widen(from[k]), second = widen(from[K + k]);
          to[k] = narrow<T>(first * cosine[k] - second * sine[k]);
          to[K + k] = narrow<T>(second * cosine[k] + first * sine[k]);
        }
        std::copy(from + 2 * K, from + P, to + 2 * K);
      }
    }
  }
}

}  // namespace
}  // namespace tandem

// `sizes`: T, H, P, K and the stride of x between tokens.
extern "C" void tandem_rotary(const int64_t* sizes, float amplitude, float direction, int narrow,
                              const int64_t* positions, const float* frequencies, const void* x, void* y) {
  using tandem::bf16;
  const auto [T, H, P, K, stride] = std::array<int64_t, 5>{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};
  if (narrow)
    tandem::rotary(T, H, P, K, stride, amplitude, direction, positions, frequencies, (const bf16*)x, (bf16*)y);
  else
    tandem::rotary(T, H, P, K, stride, amplitude, direction, positions, frequencies, (const float*)x, (float*)y);
}
