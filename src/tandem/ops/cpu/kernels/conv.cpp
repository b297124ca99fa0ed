// Causal depthwise convolution over packed documents with an optional SiLU, forward and backward.
//
// Shapes: T tokens, S documents, C channels, W taps; the last tap is for the current token. A thread takes a stretch of
// tokens; partial sums of threads are added in their order, so that results repeat bit for bit.
#include <omp.h>

#include <vector>

#include "tile.h"

namespace tandem {
namespace {

struct Convolution {
  int64_t S, C, W, silu, x_stride;
  const int64_t* offsets;
  int64_t tokens() const { return offsets[S]; }
};

// sum += a b
template <class T>
void add_product(const float* a, const T* b, int64_t count, float* sum) {
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) sum[c] += a[c] * widen(b[c]);
}

void apply_silu(float* x, int64_t count) {
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) x[c] *= sigmoid(x[c]);
}

// g times the derivative of SiLU at x.
void silu_gradient(const float* x, int64_t count, float* g) {
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) {
    const float open = sigmoid(x[c]);
    g[c] *= open * (1 + x[c] * (1 - open));
  }
}

// Taps as (W, C), behind them the bias.
std::vector<float> taps_by_row(const Convolution& s, const float* weight, const float* bias) {
  std::vector<float> taps((s.W + 1) * s.C);
  for (int64_t c = 0; c < s.C; ++c)
    for (int64_t w = 0; w < s.W; ++w) taps[w * s.C + c] = weight[c * s.W + w];
  std::copy(bias, bias + s.C, taps.data() + s.W * s.C);
  return taps;
}

// The stretch of tokens of this thread.
struct Stretch {
  int64_t first, last;
  explicit Stretch(int64_t tokens) {
    const int64_t threads = omp_get_num_threads(), me = omp_get_thread_num();
    first = tokens * me / threads, last = tokens * (me + 1) / threads;
  }
};

// The W input rows under the taps of one token; `rows` says where each is, null before the text began.
template <class T>
struct Window {
  std::vector<const T*> rows;
  int64_t document = 0;
  explicit Window(int64_t W) : rows(W) {}
  void at(const Convolution& s, int64_t token, const T* x, const T* halo) {
    while (token >= s.offsets[document + 1]) ++document;
    for (int64_t w = 0; w < s.W; ++w) {
      const int64_t source = token - (s.W - 1) + w, before = s.offsets[document] - source;
      if (before <= 0)
        rows[w] = x + source * s.x_stride;
      else
        rows[w] = halo ? halo + (document * (s.W - 1) + s.W - 1 - before) * s.C : nullptr;
    }
  }
  void sum(const Convolution& s, const float* taps, float* out) const {
    std::copy(taps + s.W * s.C, taps + (s.W + 1) * s.C, out);
    for (int64_t w = 0; w < s.W; ++w)
      if (const T* row = rows[w]) add_product(taps + w * s.C, row, s.C, out);
  }
};

template <class T>
void forward(const Convolution& s, const T* x, const float* weight, const float* bias, const T* halo, T* y) {
  const auto taps = taps_by_row(s, weight, bias);
#pragma omp parallel
  {
    const Stretch mine(s.tokens());
    Window<T> window(s.W);
    std::vector<float> sum(s.C);
    for (int64_t t = mine.first; t < mine.last; ++t) {
      window.at(s, t, x, halo);
      window.sum(s, taps.data(), sum.data());
      T* out = y + t * s.C;
      if (s.silu) apply_silu(sum.data(), s.C);
      for (int64_t c = 0; c < s.C; ++c) out[c] = narrow<T>(sum[c]);
    }
  }
}

// `pull` is T x C floats of scratch; `partial` has a (W + 1, C) block for each thread, summed by the caller.
template <class T>
void backward(const Convolution& s, const T* x, const float* weight, const float* bias, const T* halo, const T* dy,
              T* dx, float* pull, float* partial) {
  const auto taps = taps_by_row(s, weight, bias);
#pragma omp parallel
  {
    const Stretch mine(s.tokens());
    Window<T> window(s.W);
    std::vector<float> sum(s.C);
    float* d_taps = partial + omp_get_thread_num() * (s.W + 1) * s.C;
    for (int64_t t = mine.first; t < mine.last; ++t) {
      window.at(s, t, x, halo);
      float* g = pull + t * s.C;
      for (int64_t c = 0; c < s.C; ++c) g[c] = widen(dy[t * s.C + c]);
      if (s.silu) {
        window.sum(s, taps.data(), sum.data());
        silu_gradient(sum.data(), s.C, g);
      }
      for (int64_t w = 0; w < s.W; ++w)
        if (const T* row = window.rows[w])
          add_product(g, row, s.C, d_taps + w * s.C);
      for (int64_t c = 0; c < s.C; ++c) d_taps[s.W * s.C + c] += g[c];
    }
#pragma omp barrier
    int64_t document = 0;
    for (int64_t t = mine.first; t < mine.last; ++t) {
      while (t >= s.offsets[document + 1]) ++document;
      std::fill(sum.begin(), sum.end(), 0.0f);
      for (int64_t w = 0; w < s.W; ++w)
        if (const int64_t later = t + s.W - 1 - w; later < s.offsets[document + 1])
          add_product(taps.data() + w * s.C, pull + later * s.C, s.C, sum.data());
      for (int64_t c = 0; c < s.C; ++c) dx[t * s.C + c] = narrow<T>(sum[c]);
    }
  }
}

}  // namespace
}  // namespace tandem

using tandem::bf16;

// `sizes`: S, C, W, silu, row stride of x.
extern "C" void tandem_conv_forward(const int64_t* sizes, const int64_t* offsets, int narrow, const void* x,
                                    const float* weight, const float* bias, const void* halo, void* y) {
  const tandem::Convolution s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], offsets};
  if (narrow)
    tandem::forward(s, (const bf16*)x, weight, bias, (const bf16*)halo, (bf16*)y);
  else
    tandem::forward(s, (const float*)x, weight, bias, (const float*)halo, (float*)y);
}

extern "C" void tandem_conv_backward(const int64_t* sizes, const int64_t* offsets, int narrow, const void* x,
                                     const float* weight, const float* bias, const void* halo, const void* dy, void* dx,
                                     float* pull, float* partial) {
  const tandem::Convolution s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], offsets};
  if (narrow)
    tandem::backward(s, (const bf16*)x, weight, bias, (const bf16*)halo, (const bf16*)dy, (bf16*)dx, pull, partial);
  else
    tandem::backward(s, (const float*)x, weight, bias, (const float*)halo, (const float*)dy, (float*)dx, pull, partial);
}
