// Rows that fit in cache: RMSNorm with an optional gate, SwiGLU, and the softmax of a cross-entropy.
//
// Shapes: T rows, D width, F expert width, V vocabulary. Everything is float inside, whatever lies in memory.
#include <omp.h>

#include <vector>

#include "tile.h"

namespace tandem {
namespace {

struct Norm {
  int64_t T, D, groups, x_stride, gate_stride;
  float eps;
};

// u = x, or x silu(gate), of one row.
template <class In>
void gated(const Norm& s, const In* x, const In* gate, int64_t t, float* u) {
  const In* row = x + t * s.x_stride;
  if (!gate) {
    for (int64_t d = 0; d < s.D; ++d) u[d] = widen(row[d]);
    return;
  }
  const In* open = gate + t * s.gate_stride;
#pragma omp simd
  for (int64_t d = 0; d < s.D; ++d) {
    const float z = widen(open[d]);
    u[d] = widen(row[d]) * z * sigmoid(z);
  }
}

template <class In, class Out>
void norm_forward(const Norm& s, const In* x, const In* gate, const float* weight, Out* y) {
  const int64_t width = s.D / s.groups;
#pragma omp parallel if (s.T * s.D > 8192)
  {
    std::vector<float> u(s.D);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < s.T; ++t) {
      gated(s, x, gate, t, u.data());
      for (int64_t g = 0; g < s.D; g += width) {
        const float scale = 1 / std::sqrt(dot(u.data() + g, u.data() + g, width) / width + s.eps);
        for (int64_t d = g; d < g + width; ++d) y[t * s.D + d] = narrow<Out>(u[d] * scale * weight[d]);
      }
    }
  }
}

// `partial` has a row of D zeros for each thread: gradients of the weight, summed by the caller.
template <class In, class Out>
void norm_backward(const Norm& s, const In* x, const In* gate, const float* weight, const Out* dy, In* dx, In* d_gate,
                   float* partial) {
  const int64_t width = s.D / s.groups;
#pragma omp parallel
  {
    std::vector<float> u(s.D), pull(s.D);
    float* d_weight = partial + omp_get_thread_num() * s.D;
#pragma omp for schedule(static)
    for (int64_t t = 0; t < s.T; ++t) {
      gated(s, x, gate, t, u.data());
      const Out* g_row = dy + t * s.D;
      for (int64_t g = 0; g < s.D; g += width) {
        const float scale = 1 / std::sqrt(dot(u.data() + g, u.data() + g, width) / width + s.eps);
        float along = 0;
#pragma omp simd reduction(+ : along)
        for (int64_t d = g; d < g + width; ++d) {
          const float normed = u[d] * scale, given = widen(g_row[d]);
          d_weight[d] += given * normed;
          pull[d] = given * weight[d];
          along += pull[d] * normed;
        }
        along *= scale * scale / width;
        for (int64_t d = g; d < g + width; ++d) pull[d] = pull[d] * scale - u[d] * along;
      }
      In *dx_row = dx + t * s.D, *d_gate_row = d_gate + t * s.D;
      const In *x_row = x + t * s.x_stride, *gate_row = gate + t * s.gate_stride;
      if (!gate) {
        for (int64_t d = 0; d < s.D; ++d) dx_row[d] = narrow<In>(pull[d]);
        continue;
      }
#pragma omp simd
      for (int64_t d = 0; d < s.D; ++d) {
        const float z = widen(gate_row[d]), open = sigmoid(z);
        dx_row[d] = narrow<In>(pull[d] * z * open);
        d_gate_row[d] = narrow<In>(pull[d] * widen(x_row[d]) * open * (1 + z * (1 - open)));
      }
    }
  }
}

template <class T>
void swiglu_forward(int64_t rows, int64_t F, const T* gate_up, T* y) {
#pragma omp parallel for schedule(static) if (rows * F > 8192)
  for (int64_t r = 0; r < rows; ++r) {
    const T *gate = gate_up + r * 2 * F, *up = gate + F;
#pragma omp simd
    for (int64_t f = 0; f < F; ++f) {
      const float z = widen(gate[f]);
      y[r * F + f] = narrow<T>(z * sigmoid(z) * widen(up[f]));
    }
  }
}

template <class T>
void swiglu_backward(int64_t rows, int64_t F, const T* gate_up, const T* dy, T* d_gate_up) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const T *gate = gate_up + r * 2 * F, *up = gate + F;
    T *d_gate = d_gate_up + r * 2 * F, *d_up = d_gate + F;
#pragma omp simd
    for (int64_t f = 0; f < F; ++f) {
      const float z = widen(gate[f]), open = sigmoid(z), given = widen(dy[r * F + f]);
      d_gate[f] = narrow<T>(given * widen(up[f]) * open * (1 + z * (1 - open)));
      d_up[f] = narrow<T>(given * z * open);
    }
  }
}

// Writes -log softmax(logits)[target] of each row to `nll`, and weight (softmax - one hot) over the logits.
template <class T>
void softmax_gradient(int64_t rows, int64_t V, T* logits, const int64_t* targets, const float* weights, float* nll) {
#pragma omp parallel
  {
    std::vector<float> power(V);
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
      T* row = logits + r * V;
      float top = widen(row[0]), sum = 0;
      for (int64_t v = 0; v < V; ++v) top = std::max(top, widen(row[v]));
      for (int64_t v = 0; v < V; ++v) sum += power[v] = fast_exp(widen(row[v]) - top);
      nll[r] = top + std::log(sum) - widen(row[targets[r]]);
      const float scale = weights[r] / sum;
      for (int64_t v = 0; v < V; ++v) row[v] = narrow<T>(power[v] * scale);
      row[targets[r]] = narrow<T>(power[targets[r]] * scale - weights[r]);
    }
  }
}

}  // namespace
}  // namespace tandem

using tandem::bf16;

// `sizes`: T, D, groups, row strides of x and gate. `form`: 0 float to float, 1 bfloat16 to bfloat16, 2 float to bfloat16.
extern "C" void tandem_norm_forward(const int64_t* sizes, float eps, int form, int narrow_weight, const void* x,
                                    const void* gate, const void* given_weight, void* y) {
  const tandem::Norm s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], eps};
  const tandem::Floats weight(given_weight, narrow_weight, s.D);
  if (form == 0) tandem::norm_forward(s, (const float*)x, (const float*)gate, weight, (float*)y);
  if (form == 1) tandem::norm_forward(s, (const bf16*)x, (const bf16*)gate, weight, (bf16*)y);
  if (form == 2) tandem::norm_forward(s, (const float*)x, (const float*)gate, weight, (bf16*)y);
}

extern "C" void tandem_norm_backward(const int64_t* sizes, float eps, int form, const void* x, const void* gate,
                                     const float* weight, const void* dy, void* dx, void* d_gate, float* partial) {
  const tandem::Norm s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], eps};
  if (form == 0)
    tandem::norm_backward(s, (const float*)x, (const float*)gate, weight, (const float*)dy, (float*)dx, (float*)d_gate,
                          partial);
  if (form == 1)
    tandem::norm_backward(s, (const bf16*)x, (const bf16*)gate, weight, (const bf16*)dy, (bf16*)dx, (bf16*)d_gate,
                          partial);
  if (form == 2)
    tandem::norm_backward(s, (const float*)x, (const float*)gate, weight, (const bf16*)dy, (float*)dx, (float*)d_gate,
                          partial);
}

extern "C" void tandem_swiglu_forward(int64_t rows, int64_t F, int narrow, const void* gate_up, void* y) {
  if (narrow)
    tandem::swiglu_forward(rows, F, (const bf16*)gate_up, (bf16*)y);
  else
    tandem::swiglu_forward(rows, F, (const float*)gate_up, (float*)y);
}

extern "C" void tandem_swiglu_backward(int64_t rows, int64_t F, int narrow, const void* gate_up, const void* dy,
                                       void* d_gate_up) {
  if (narrow)
    tandem::swiglu_backward(rows, F, (const bf16*)gate_up, (const bf16*)dy, (bf16*)d_gate_up);
  else
    tandem::swiglu_backward(rows, F, (const float*)gate_up, (const float*)dy, (float*)d_gate_up);
}

extern "C" void tandem_softmax_gradient(int64_t rows, int64_t V, int narrow, void* logits, const int64_t* targets,
                                        const float* weights, float* nll) {
  if (narrow)
    tandem::softmax_gradient(rows, V, (bf16*)logits, targets, weights, nll);
  else
    tandem::softmax_gradient(rows, V, (float*)logits, targets, weights, nll);
}
