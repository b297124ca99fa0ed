// One token of each of a few documents: work that reads every weight once, so memory bandwidth is the limit.
//
// Shapes: S documents, D width, O outputs, E experts, K choices, F expert width, H heads, P head width, G groups, N state
// width, C convolution channels, W taps. Products are summed in float.
#include <omp.h>

#include <type_traits>
#include <vector>

#include "tile.h"

namespace tandem {
namespace {

constexpr int64_t ALONE = 1 << 15;  // weights below which a second thread costs more than it saves

inline Vector widened(const float* from) { return *(const Vector*)from; }
inline Vector widened(const bf16* from) {
  typedef uint16_t Half __attribute__((vector_size(2 * LANES), aligned(2)));
  typedef uint32_t Word __attribute__((vector_size(4 * LANES)));
  return (Vector)(__builtin_convertvector(*(const Half*)from, Word) << 16);
}

inline float total(Vector v) {
  float sum = 0;
  for (int i = 0; i < LANES; ++i) sum += v[i];
  return sum;
}

constexpr int64_t AHEAD = 4096;  // bytes of weights asked for early: the hardware stops asking at the end of a page

// One row of weights times X vectors that lie D apart; rows are read one after the other, as memory likes it.
template <int X, class W>
inline void row_dots(const float* x, const W* w, int64_t D, float* y) {
  constexpr int CHAINS = X == 1 ? 4 : 1;  // independent sums hide the latency of an addition
  Vector sum[X][CHAINS] = {};
  int64_t d = 0;
  for (; d + CHAINS * LANES <= D; d += CHAINS * LANES)
    for (int c = 0; c < CHAINS; ++c) {
      const W* at = w + d + c * LANES;
      __builtin_prefetch((const char*)at + AHEAD);
      const Vector right = widened(at);
      for (int i = 0; i < X; ++i) sum[i][c] += widened(x + i * D + d + c * LANES) * right;
    }
  for (int i = 0; i < X; ++i) {
    for (int c = 1; c < CHAINS; ++c) sum[i][0] += sum[i][c];
    y[i] = total(sum[i][0]);
    for (int64_t rest = d; rest < D; ++rest) y[i] += x[i * D + rest] * widen(w[rest]);
  }
}

template <class T>
std::vector<float> widened_rows(const T* x, int64_t count) {
  std::vector<float> wide(count);
  for (int64_t i = 0; i < count; ++i) wide[i] = widen(x[i]);
  return wide;
}

// y = x w^T for w of O rows; a row is read once for up to 4 documents.
template <class T, class W>
void linear(int64_t S, int64_t D, int64_t O, const T* x, const W* w, T* y) {
  constexpr int X = 4;
  const auto wide = widened_rows(x, S * D);
#pragma omp parallel for schedule(static) if (O * D > ALONE)
  for (int64_t o = 0; o < O; ++o) {
    float out[X];
    for (int64_t s = 0, step; s < S; s += step) {
      step = S - s >= X ? X : 1;
      if (step == X)
        row_dots<X>(wide.data() + s * D, w + o * D, D, out);
      else
        row_dots<1>(wide.data() + s * D, w + o * D, D, out);
      for (int64_t i = 0; i < step; ++i) y[(s + i) * O + o] = narrow<T>(out[i]);
    }
  }
}

// sum_c += x_d w_dc for rows w_d that lie `stride` apart. Four rows at once: sums stay in the first-level cache.
template <class W>
void add_rows(const float* x, const W* w, int64_t rows, int64_t stride, int64_t columns, float* sum) {
  int64_t d = 0;
  for (; d + 4 <= rows; d += 4) {
    const W* row = w + d * stride;
    for (int64_t c = 0; c < columns; c += LANES) {
      Vector& to = *(Vector*)(sum + c);
      for (int r = 0; r < 4; ++r) __builtin_prefetch(row + (4 + r) * stride + c);
      to += x[d] * widened(row + c) + x[d + 1] * widened(row + stride + c) + x[d + 2] * widened(row + 2 * stride + c) +
            x[d + 3] * widened(row + 3 * stride + c);
    }
  }
  for (; d < rows; ++d)
    for (int64_t c = 0; c < columns; c += LANES) *(Vector*)(sum + c) += x[d] * widened(w + d * stride + c);
}

struct Experts {
  int64_t S, D, F, K;
  const int64_t* expert;
  const float* weight;
};

// In how many parts to cut `columns` so that `choices` times as many tasks keep all threads busy.
int64_t parts_of(int64_t columns, int64_t choices) {
  const int64_t wanted = (omp_get_max_threads() + choices - 1) / choices;
  return std::max<int64_t>(1, std::min(wanted, columns / 64));
}

// Columns of one part: multiples of LANES.
struct Part {
  int64_t first, count;
  Part(int64_t columns, int64_t parts, int64_t index) {
    const int64_t vectors = columns / LANES;
    first = vectors * index / parts * LANES, count = vectors * (index + 1) / parts * LANES - first;
  }
};

// y_s = sum_k weight[s, k] expert_k(x_s); F and D are multiples of LANES.
template <class T, class W>
void experts(const Experts& s, const T* x, const W* gate_up, const W* down, T* y) {
  const int64_t choices = s.S * s.K, parts_F = parts_of(s.F, choices), parts_D = parts_of(s.D, choices);
  const auto wide = widened_rows(x, s.S * s.D);
  std::vector<float> gate(choices * s.F), up(choices * s.F), made(choices * s.D);
#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (int64_t task = 0; task < choices * parts_F; ++task) {
      const int64_t choice = task / parts_F;
      const Part part(s.F, parts_F, task % parts_F);
      const float* row = wide.data() + choice / s.K * s.D;
      const W* w = gate_up + s.expert[choice] * s.D * 2 * s.F + part.first;
      float *g = gate.data() + choice * s.F + part.first, *u = up.data() + choice * s.F + part.first;
      add_rows(row, w, s.D, 2 * s.F, part.count, g);
      add_rows(row, w + s.F, s.D, 2 * s.F, part.count, u);
      for (int64_t f = 0; f < part.count; ++f) g[f] *= sigmoid(g[f]) * u[f] * s.weight[choice];
    }
#pragma omp for schedule(static)
    for (int64_t task = 0; task < choices * parts_D; ++task) {
      const int64_t choice = task / parts_D;
      const Part part(s.D, parts_D, task % parts_D);
      const W* w = down + s.expert[choice] * s.F * s.D + part.first;
      add_rows(gate.data() + choice * s.F, w, s.F, s.D, part.count, made.data() + choice * s.D + part.first);
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < s.S * s.D; ++i) {
      float sum = 0;
      for (int64_t k = 0; k < s.K; ++k) sum += made[(i / s.D * s.K + k) * s.D + i % s.D];
      y[i] = narrow<T>(sum);
    }
  }
}

struct Step {
  int64_t S, H, P, G, N, W, norm_groups, stride;  // stride between rows of the projection
  float eps, least, most;  // of the norm; step sizes are kept between the last two
  const float *taps, *bias, *A_log, *dt_bias, *D, *norm;  // taps: (C, W)
  int64_t inner() const { return H * P; }
  int64_t channels() const { return H * P + 2 * G * N; }
};

// Convolution with SiLU over x, B and C of one document; moves its halo on.
template <class T>
void convolve(const Step& s, const T* in, T* halo, float* out) {
  const int64_t C = s.channels(), past = s.W - 1;
#pragma omp simd
  for (int64_t c = 0; c < C; ++c) {
    float sum = s.bias[c] + s.taps[c * s.W + past] * widen(in[c]);
    for (int64_t w = 0; w < past; ++w) sum += s.taps[c * s.W + w] * widen(halo[w * C + c]);
    out[c] = sum * sigmoid(sum);
  }
  if (past == 0) return;
  std::memmove(halo, halo + C, (past - 1) * C * sizeof(T));
  std::memcpy(halo + (past - 1) * C, in, C * sizeof(T));
}

// S = exp(dt A) S + dt x B^T with A = -exp(A_log), y = S C + D x of one head; y replaces x.
inline void advance(const Step& s, int64_t head, float raw_dt, float* x, const float* B, const float* C, float* state) {
  const float shifted = raw_dt + s.dt_bias[head];
  const float dt = std::min(std::max(shifted > 20 ? shifted : std::log1p(std::exp(shifted)), s.least), s.most);
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
    x[p] = sum + s.D[head] * x[p];
  }
}

template <class T>
void gated_norm(const Step& s, const T* z, float* y, T* out) {
  const int64_t width = s.inner() / s.norm_groups;
#pragma omp simd
  for (int64_t i = 0; i < s.inner(); ++i) {
    const float gate = widen(z[i]);
    y[i] = widen(narrow<T>(y[i])) * gate * sigmoid(gate);
  }
  for (int64_t g = 0; g < s.inner(); g += width) {
    const float scale = 1 / std::sqrt(dot(y + g, y + g, width) / width + s.eps);
    for (int64_t i = g; i < g + width; ++i) out[i] = narrow<T>(y[i] * scale * s.norm[i]);
  }
}

// The middle of a Mamba-2 layer. `in` holds rows [z | x | B | C | dt]; halo and state are moved on in place.
template <class T>
void mamba_step(const Step& s, const T* in, T* halo, float* state, T* out) {
  const int64_t C = s.channels(), I = s.inner();
  std::vector<float> mixed(s.S * C);
#pragma omp parallel if (s.S * I * s.N > ALONE)
  {
#pragma omp for schedule(static)
    for (int64_t d = 0; d < s.S; ++d)
      convolve(s, in + d * s.stride + I, halo + d * (s.W - 1) * C, mixed.data() + d * C);
#pragma omp for schedule(static)
    for (int64_t task = 0; task < s.S * s.H; ++task) {
      const int64_t d = task / s.H, head = task % s.H, group = head / (s.H / s.G);
      float *x = mixed.data() + d * C + head * s.P, *B = mixed.data() + d * C + I + group * s.N;
      const float dt = widen(in[d * s.stride + I + C + head]);
      advance(s, head, dt, x, B, B + s.G * s.N, state + task * s.P * s.N);
    }
#pragma omp for schedule(static)
    for (int64_t d = 0; d < s.S; ++d) gated_norm(s, in + d * s.stride, mixed.data() + d * C, out + d * I);
  }
}

// softmax(x w^T) of each token, its K best (by score + bias), and their weights, which add up to 1.
template <class T>
void route(int64_t S, int64_t D, int64_t E, int64_t K, const T* x, const float* w, const float* bias, int64_t* expert,
           float* weight, float* scores) {
  const auto wide = widened_rows(x, S * D);
  std::vector<float> rank(E);
  for (int64_t s = 0; s < S; ++s) {
    float* score = scores + s * E;
    for (int64_t e = 0; e < E; ++e) row_dots<1>(wide.data() + s * D, w + e * D, D, score + e);
    const float top = *std::max_element(score, score + E);
    float sum = 0;
    for (int64_t e = 0; e < E; ++e) sum += score[e] = fast_exp(score[e] - top);
    for (int64_t e = 0; e < E; ++e) rank[e] = (score[e] /= sum) + (bias ? bias[e] : 0.0f);
    float chosen = 0;
    for (int64_t k = 0; k < K; ++k) {
      const int64_t best = std::max_element(rank.begin(), rank.end()) - rank.begin();
      rank[best] = -INFINITY;
      expert[s * K + k] = best;
      chosen += weight[s * K + k] = score[best];
    }
    for (int64_t k = 0; k < K; ++k) weight[s * K + k] /= chosen;
  }
}

}  // namespace
}  // namespace tandem

using tandem::bf16;

// `form`: 0 all float, 1 all bfloat16, 2 float weights with bfloat16 x and y, 3 bfloat16 weights with float x and y.
extern "C" void tandem_linear(int64_t S, int64_t D, int64_t O, int form, const void* x, const void* w, void* y) {
  if (form == 0) tandem::linear(S, D, O, (const float*)x, (const float*)w, (float*)y);
  if (form == 1) tandem::linear(S, D, O, (const bf16*)x, (const bf16*)w, (bf16*)y);
  if (form == 2) tandem::linear(S, D, O, (const bf16*)x, (const float*)w, (bf16*)y);
  if (form == 3) tandem::linear(S, D, O, (const float*)x, (const bf16*)w, (float*)y);
}

// Routed experts and, with `shared` F > 0, one that is always on. `sizes`: S, D, F, K, E, shared F.
template <class T, class W>
void mixture(const int64_t* sizes, const T* x, const float* router, const float* bias, const W* gate_up, const W* down,
             const W* shared_gate_up, const W* shared_down, int64_t* expert, float* weight, float* scores, T* y) {
  const int64_t S = sizes[0], D = sizes[1], K = sizes[3], F = sizes[5];
  tandem::route(S, D, sizes[4], K, x, router, bias, expert, weight, scores);
  tandem::experts(tandem::Experts{S, D, sizes[2], K, expert, weight}, x, gate_up, down, y);
  if (F == 0) return;
  std::vector<T> both(S * 2 * F), hidden(S * F), add(S * D);
  tandem::linear(S, D, 2 * F, x, shared_gate_up, both.data());
  for (int64_t s = 0; s < S; ++s)
    for (int64_t f = 0; f < F; ++f) {
      const float gate = tandem::widen(both[s * 2 * F + f]), up = tandem::widen(both[s * 2 * F + F + f]);
      hidden[s * F + f] = tandem::narrow<T>(gate * tandem::sigmoid(gate) * up);
    }
  tandem::linear(S, F, D, hidden.data(), shared_down, add.data());
  for (int64_t i = 0; i < S * D; ++i) y[i] = tandem::narrow<T>(tandem::widen(y[i]) + tandem::widen(add[i]));
}

extern "C" void tandem_mixture(const int64_t* sizes, int form, const void* x, const float* router, const float* bias,
                               const void* gate_up, const void* down, const void* shared_gate_up,
                               const void* shared_down, int64_t* expert, float* weight, float* scores, void* y) {
#define TANDEM_MIXTURE(T, W)                                                                                    \
  mixture(sizes, (const T*)x, router, bias, (const W*)gate_up, (const W*)down, (const W*)shared_gate_up,        \
          (const W*)shared_down, expert, weight, scores, (T*)y)
  if (form == 0) TANDEM_MIXTURE(float, float);
  if (form == 1) TANDEM_MIXTURE(bf16, bf16);
  if (form == 2) TANDEM_MIXTURE(bf16, float);
  if (form == 3) TANDEM_MIXTURE(float, bf16);
}

// A Mamba-2 layer: projection, step, projection; with null projections, the step alone. `sizes`: S, H, P, G, N, W, norm
// groups, D. `limits`: eps of the norm, least and greatest step size. `weights`: into, out, taps, bias and norm, all of
// one format.
template <class T, class W>
void mamba_layer(const int64_t* sizes, const float* limits, const void* const* weights, const float* A_log, const float* dt_bias,
                 const float* skip, const T* x, T* halo, float* state, T* y) {
  constexpr bool narrow = std::is_same<W, bf16>::value;
  const int64_t S = sizes[0], D = sizes[7], inner = sizes[1] * sizes[2], channels = inner + 2 * sizes[3] * sizes[4];
  const int64_t width = inner + channels + sizes[1];
  const tandem::Floats taps(weights[2], narrow, channels * sizes[5]), bias(weights[3], narrow, channels);
  const tandem::Floats norm(weights[4], narrow, inner);
  const tandem::Step step{S,         sizes[1],  sizes[2],  sizes[3], sizes[4], sizes[5], sizes[6], width, limits[0],
                          limits[1], limits[2], taps,      bias,     A_log,    dt_bias,  skip,     norm};
  if (!weights[0]) return tandem::mamba_step(step, x, halo, state, y);
  std::vector<T> projected(S * width), mixed(S * inner);
  tandem::linear(S, D, width, x, (const W*)weights[0], projected.data());
  tandem::mamba_step(step, projected.data(), halo, state, mixed.data());
  tandem::linear(S, inner, D, mixed.data(), (const W*)weights[1], y);
}

extern "C" void tandem_mamba_step(const int64_t* sizes, float eps, float least, float most, int form, const void* into,
                                  const void* out, const void* taps, const void* bias, const void* norm,
                                  const float* A_log, const float* dt_bias, const float* skip, const void* x, void* halo,
                                  float* state, void* y) {
  const void* weights[] = {into, out, taps, bias, norm};
  const float limits[] = {eps, least, most};
#define TANDEM_MAMBA(T, W) \
  mamba_layer<T, W>(sizes, limits, weights, A_log, dt_bias, skip, (const T*)x, (T*)halo, state, (T*)y)
  if (form == 0) TANDEM_MAMBA(float, float);
  if (form == 1) TANDEM_MAMBA(bf16, bf16);
  if (form == 2) TANDEM_MAMBA(bf16, float);
  if (form == 3) TANDEM_MAMBA(float, bf16);
}
