// Moving tokens to their experts and back. Sorted by expert, row place[t, k] belongs to choice k of token t.
//
// Shapes: T tokens, K choices a token, D width.
#include "tile.h"

namespace tandem {
namespace {

// y_t = sum_k weight[t, k] rows[place[t, k]]; without weights a plain sum.
template <class T>
void gather_sum(int64_t tokens, int64_t K, int64_t D, const T* rows, const int64_t* place, const float* weight, T* y) {
#pragma omp parallel
  {
    Scratch scratch(D);
    float* sum = scratch.take(D);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tokens; ++t) {
      std::memset(sum, 0, D * 4);
      for (int64_t k = 0; k < K; ++k) {
        const T* row = rows + place[t * K + k] * D;
        const float factor = weight ? weight[t * K + k] : 1.0f;
#pragma omp simd
        for (int64_t d = 0; d < D; ++d) sum[d] += factor * widen(row[d]);
      }
      T* out = y + t * D;
#pragma omp simd
      for (int64_t d = 0; d < D; ++d) out[d] = narrow<T>(sum[d]);
    }
  }
}

// rows[place[t, k]] = weight[t, k] dy_t, and d_weight[t, k] = dy_t . y[place[t, k]].
template <class T>
void scatter_gradient(int64_t tokens, int64_t K, int64_t D, const T* y, const int64_t* place, const float* weight,
                      const T* dy, T* rows, float* d_weight) {
#pragma omp parallel for schedule(static)
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t k = 0; k < K; ++k) {
      const T *given = dy + t * D, *made = y + place[t * K + k] * D;
      T* out = rows + place[t * K + k] * D;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t d = 0; d < D; ++d) {
        const float g = widen(given[d]);
        sum += g * widen(made[d]);
        out[d] = narrow<T>(g * weight[t * K + k]);
      }
      d_weight[t * K + k] = sum;
    }
}

}  // namespace
}  // namespace tandem

using tandem::bf16;

extern "C" void tandem_gather_sum(int64_t tokens, int64_t K, int64_t D, int narrow, const void* rows,
                                  const int64_t* place, const float* weight, void* y) {
  if (narrow)
    tandem::gather_sum(tokens, K, D, (const bf16*)rows, place, weight, (bf16*)y);
  else
    tandem::gather_sum(tokens, K, D, (const float*)rows, place, weight, (float*)y);
}

extern "C" void tandem_scatter_gradient(int64_t tokens, int64_t K, int64_t D, int narrow, const void* y,
                                        const int64_t* place, const float* weight, const void* dy, void* rows,
                                        float* d_weight) {
  if (narrow)
    tandem::scatter_gradient(tokens, K, D, (const bf16*)y, place, weight, (const bf16*)dy, (bf16*)rows, d_weight);
  else
    tandem::scatter_gradient(tokens, K, D, (const float*)y, place, weight, (const float*)dy, (float*)rows, d_weight);
}
