// The middle of a Mamba-2 layer for one token of each document: convolution, recurrence and gated norm, halo and state moved
// on in place. The states are float and most of what is moved.
#include <vector>

#include "step.h"

namespace tandem {
namespace {

// Convolution with SiLU over some channels of x, B and C of one document; moves its halo on. TAPS: W, where it is known to
// the compiler, or 0.
template <int TAPS, class T, class W>
void convolve(const MambaStep& s, const T* in, T* halo, Team::Range channels, float* out) {
  const int64_t C = s.channels(), past = (TAPS ? TAPS : s.W) - 1;
  const W *taps = (const W*)s.taps, *bias = (const W*)s.bias;
  for (int64_t c = channels.first; c < channels.last; ++c) {
    float sum = widen(bias[c]) + widen(taps[c * (past + 1) + past]) * widen(in[c]);
    for (int64_t w = 0; w < past; ++w) sum += widen(taps[c * (past + 1) + w]) * widen(halo[w * C + c]);
    out[c] = sum;
  }
#pragma omp simd
  for (int64_t c = channels.first; c < channels.last; ++c) out[c] *= sigmoid(out[c]);
  const int64_t first = channels.first, bytes = (channels.last - first) * sizeof(T);
  for (int64_t w = 0; w < past; ++w)
    std::memcpy(halo + w * C + first, (w + 1 < past ? halo + (w + 1) * C : in) + first, bytes);
}

// S = exp(dt A) S + dt x B^T with A = -exp(A_log) and, unless SILENT, y = S C + D x of one head; y replaces x.
template <bool SILENT>
void advance(const MambaStep& s, int64_t head, float raw_dt, float* x, const float* B, const float* C,
                    float* state) {
  const float shifted = raw_dt + s.dt_bias[head];
  const float dt =
      std::min(std::max(shifted > 20 ? shifted : std::log1p(std::exp(shifted)), float(s.least)), float(s.most));
  const float decay = std::exp(-dt * std::exp(s.A_log[head]));
  for (int64_t p = 0; p < s.P; ++p) {
    float* row = state + p * s.N;
    const float weight = dt * x[p];
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t n = 0; n < s.N; ++n) {
      row[n] = row[n] * decay + weight * B[n];
      sum += row[n] * C[n];
    }
    if (!SILENT) x[p] = sum + s.D[head] * x[p];
  }
}

template <class T, class W>
void gated_norm(const MambaStep& s, const T* z, float* y, T* out) {
  const int64_t width = s.inner() / s.norm_groups;
#pragma omp simd
  for (int64_t i = 0; i < s.inner(); ++i) {
    const float gate = widen(z[i]);
    y[i] = widen(narrow<T>(y[i])) * gate * sigmoid(gate);
  }
  for (int64_t g = 0; g < s.inner(); g += width) {
    const float scale = 1 / std::sqrt(dot(y + g, y + g, width) / width + float(s.eps));
#pragma omp simd
    for (int64_t i = g; i < g + width; ++i) out[i] = narrow<T>(y[i] * scale * widen(((const W*)s.norm)[i]));
  }
}

template <class T, class W>
void mamba_step(const MambaStep& s, const Team& team) {
  const int64_t C = s.channels(), I = s.inner(), stride = I + C + s.H;
  const T* in = (const T*)s.in;
  const auto channels = team.share(C, LANES), heads = team.share(s.S * s.H), documents = team.share(s.S);
  for (int64_t d = 0; d < s.S; ++d)
    (s.W == 4 ? convolve<4, T, W> : convolve<0, T, W>)(s, in + d * stride + I, (T*)s.halo + d * (s.W - 1) * C, channels,
                                                       s.scratch + d * C);
  team.meet();
  for (int64_t task = heads.first; task < heads.last; ++task) {
    const int64_t d = task / s.H, head = task % s.H, group = head / (s.H / s.G);
    float *x = s.scratch + d * C + head * s.P, *B = s.scratch + d * C + I + group * s.N;
    const float dt = widen(in[d * stride + I + C + head]);
    (s.y ? advance<false> : advance<true>)(s, head, dt, x, B, B + s.G * s.N, s.state + task * s.P * s.N);
  }
  if (!s.y) {
    const int64_t shared = s.G * s.N;
    for (int64_t d = documents.first; d < documents.last; ++d) {
      const float* from = s.scratch + d * C;
      T* to = (T*)s.qkv + d * C;
      for (int64_t i = 0; i < shared; ++i) to[i] = narrow<T>(from[I + shared + i]);
      for (int64_t i = 0; i < shared; ++i) to[shared + i] = narrow<T>(from[I + i]);
      for (int64_t i = 0; i < I; ++i) to[2 * shared + i] = narrow<T>(from[i]);
    }
    team.meet();
    return;
  }
  team.meet();
  for (int64_t d = documents.first; d < documents.last; ++d)
    gated_norm<T, W>(s, in + d * stride, s.scratch + d * C, (T*)s.y + d * I);
  team.meet();
}

}  // namespace

void run(const MambaStep& s, const Team& team) {
  if (s.format == FLOAT && s.weights == FLOAT) mamba_step<float, float>(s, team);
  if (s.format == FLOAT && s.weights == BFLOAT) mamba_step<float, bf16>(s, team);
  if (s.format == BFLOAT && s.weights == FLOAT) mamba_step<bf16, float>(s, team);
  if (s.format == BFLOAT && s.weights == BFLOAT) mamba_step<bf16, bf16>(s, team);
}

}  // namespace tandem
