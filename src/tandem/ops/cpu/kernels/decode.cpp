// One token of each of a few documents: work that reads every weight once, so memory bandwidth is the limit.
//
// Shapes: S documents, D width, O outputs, E experts, K choices, F expert width, H heads, P head width, G groups, N state
// width, C convolution channels, W taps. Products are summed in float.
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

// R rows of weights times X vectors; y[x * O + r].
template <int R, int X, class W>
inline void dots(const float* x, const W* w, int64_t D, float* y, int64_t O) {
  Vector sum[X][R] = {};
  int64_t d = 0;
  for (; d + LANES <= D; d += LANES)
    for (int r = 0; r < R; ++r) {
      const Vector right = widened(w + r * D + d);
      for (int i = 0; i < X; ++i) sum[i][r] += widened(x + i * D + d) * right;
    }
  for (int i = 0; i < X; ++i)
    for (int r = 0; r < R; ++r) {
      float value = total(sum[i][r]);
      for (int64_t rest = d; rest < D; ++rest) value += x[i * D + rest] * widen(w[r * D + rest]);
      y[i * O + r] = value;
    }
}

template <class T>
std::vector<float> widened_rows(const T* x, int64_t count) {
  std::vector<float> wide(count);
  for (int64_t i = 0; i < count; ++i) wide[i] = widen(x[i]);
  return wide;
}

// y = x w^T for w of O rows; weights are read once for up to 4 documents.
template <class T, class W>
void linear(int64_t S, int64_t D, int64_t O, const T* x, const W* w, T* y) {
  constexpr int R = 4, X = 4;
  const auto wide = widened_rows(x, S * D);
#pragma omp parallel for schedule(static) if (O * D > ALONE)
  for (int64_t o = 0; o < O; o += R) {
    const int64_t rows = std::min<int64_t>(R, O - o);
    for (int64_t s = 0, step; s < S; s += step) {
      const float* from = wide.data() + s * D;
      float out[X * R];
      step = rows == R && S - s >= X ? X : 1;
      if (step == X)
        dots<R, X>(from, w + o * D, D, out, R);
      else if (rows == R)
        dots<R, 1>(from, w + o * D, D, out, R);
      else
        for (int64_t r = 0; r < rows; ++r) dots<1, 1>(from, w + (o + r) * D, D, out + r, 1);
      for (int64_t i = 0; i < step; ++i)
        for (int64_t r = 0; r < rows; ++r) y[(s + i) * O + o + r] = narrow<T>(out[i * R + r]);
    }
  }
}

// sum += x w for `count` rows of w, each `stride` apart, over V vectors of columns.
template <int V, class W>
inline void add_rows(const float* x, const W* w, int64_t count, int64_t stride, Vector* sum) {
  for (int64_t d = 0; d < count; ++d)
    for (int v = 0; v < V; ++v) sum[v] += x[d] * widened(w + d * stride + v * LANES);
}

struct Experts {
  int64_t S, D, F, K;
  const int64_t* expert;
  const float* weight;
};

// y_s = sum_k weight[s, k] expert_k(x_s); F and D are multiples of LANES.
template <class T, class W>
void experts(const Experts& s, const T* x, const W* gate_up, const W* down, T* y) {
  constexpr int V = 4;
  const auto wide = widened_rows(x, s.S * s.D);
  std::vector<float> hidden(s.S * s.K * s.F);
  const int64_t tiles_F = (s.F + V * LANES - 1) / (V * LANES), tiles_D = (s.D + V * LANES - 1) / (V * LANES);
#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (int64_t task = 0; task < s.S * s.K * tiles_F; ++task) {
      const int64_t choice = task / tiles_F, first = task % tiles_F * V * LANES;
      const float* row = wide.data() + choice / s.K * s.D;
      const W* w = gate_up + s.expert[choice] * s.D * 2 * s.F + first;
      float* out = hidden.data() + choice * s.F + first;
      const int64_t vectors = std::min<int64_t>(V, (s.F - first) / LANES);
      Vector gate[V] = {}, up[V] = {};
      if (vectors == V) {
        add_rows<V>(row, w, s.D, 2 * s.F, gate);
        add_rows<V>(row, w + s.F, s.D, 2 * s.F, up);
      } else
        for (int64_t v = 0; v < vectors; ++v) {
          add_rows<1>(row, w + v * LANES, s.D, 2 * s.F, gate + v);
          add_rows<1>(row, w + s.F + v * LANES, s.D, 2 * s.F, up + v);
        }
      for (int64_t v = 0; v < vectors; ++v)
        for (int i = 0; i < LANES; ++i)
          out[v * LANES + i] = gate[v][i] * sigmoid(gate[v][i]) * up[v][i] * s.weight[choice];
    }
#pragma omp for schedule(static)
    for (int64_t task = 0; task < s.S * tiles_D; ++task) {
      const int64_t document = task / tiles_D, first = task % tiles_D * V * LANES;
      const int64_t vectors = std::min<int64_t>(V, (s.D - first) / LANES);
      Vector sum[V] = {};
      for (int64_t k = document * s.K; k < (document + 1) * s.K; ++k) {
        const W* w = down + s.expert[k] * s.F * s.D + first;
        const float* row = hidden.data() + k * s.F;
        if (vectors == V)
          add_rows<V>(row, w, s.F, s.D, sum);
        else
          for (int64_t v = 0; v < vectors; ++v) add_rows<1>(row, w + v * LANES, s.F, s.D, sum + v);
      }
      for (int64_t v = 0; v < vectors; ++v)
        for (int i = 0; i < LANES; ++i) y[document * s.D + first + v * LANES + i] = narrow<T>(sum[v][i]);
    }
  }
}

struct Step {
  int64_t S, H, P, G, N, W, norm_groups, stride;  // stride between rows of the projection
  float eps;
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
  std::memmove(halo, halo + C, (past - 1) * C * sizeof(T));
  std::memcpy(halo + (past - 1) * C, in, C * sizeof(T));
}

// S = exp(dt A) S + dt x B^T with A = -exp(A_log), y = S C + D x of one head; y replaces x.
inline void advance(const Step& s, int64_t head, float raw_dt, float* x, const float* B, const float* C, float* state) {
  const float shifted = raw_dt + s.dt_bias[head];
  const float dt = shifted > 20 ? shifted : std::log1p(std::exp(shifted));
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
    for (int64_t e = 0; e < E; ++e) dots<1, 1>(wide.data() + s * D, w + e * D, D, score + e, 1);
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

// `sizes`: S, D, F, K.
extern "C" void tandem_experts_step(const int64_t* sizes, int form, const void* x, const int64_t* expert,
                                    const float* weight, const void* gate_up, const void* down, void* y) {
  const tandem::Experts s{sizes[0], sizes[1], sizes[2], sizes[3], expert, weight};
  if (form == 0) tandem::experts(s, (const float*)x, (const float*)gate_up, (const float*)down, (float*)y);
  if (form == 1) tandem::experts(s, (const bf16*)x, (const bf16*)gate_up, (const bf16*)down, (bf16*)y);
  if (form == 2) tandem::experts(s, (const bf16*)x, (const float*)gate_up, (const float*)down, (bf16*)y);
  if (form == 3) tandem::experts(s, (const float*)x, (const bf16*)gate_up, (const bf16*)down, (float*)y);
}

// `sizes`: S, H, P, G, N, W, norm groups, row stride of the projection.
extern "C" void tandem_mamba_step(const int64_t* sizes, float eps, int narrow, const float* taps, const float* bias,
                                  const float* A_log, const float* dt_bias, const float* D, const float* norm,
                                  const void* in, void* halo, float* state, void* out) {
  const tandem::Step s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6],
                       sizes[7], eps,      taps,     bias,     A_log,    dt_bias,  D,        norm};
  if (narrow)
    tandem::mamba_step(s, (const bf16*)in, (bf16*)halo, state, (bf16*)out);
  else
    tandem::mamba_step(s, (const float*)in, (float*)halo, state, (float*)out);
}

extern "C" void tandem_route(int64_t S, int64_t D, int64_t E, int64_t K, int narrow, const void* x, const float* w,
                             const float* bias, int64_t* expert, float* weight, float* scores) {
  if (narrow)
    tandem::route(S, D, E, K, (const bf16*)x, w, bias, expert, weight, scores);
  else
    tandem::route(S, D, E, K, (const float*)x, w, bias, expert, weight, scores);
}
