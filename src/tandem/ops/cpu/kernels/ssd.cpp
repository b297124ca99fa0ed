// The SSD scan of ssd.py and the Memory Converter of memory.py, which is its walk without outputs, on a CPU: a thread takes one document and a block of heads, walks its chunks with the state in
// cache, and never writes a Q x Q matrix to memory. All arithmetic is float; the backward pass recomputes decays.
//
// Shapes: T tokens, S documents, H heads, P head width, G groups, N state width, Q tokens of a chunk. Local names: in
// chunk tokens i and j, f_i is the decay from the chunk's start through i, e_j from behind j to its end, L_ij from
// behind j through i. States are kept transposed, (N, P), so that every product reads its right side by rows.
#include "tile.h"

namespace tandem {
namespace {

struct Problem {
  int64_t S, H, P, G, N, Q, blocks;
  int64_t x_stride, B_stride, C_stride, dt_stride;
  const int64_t *offsets, *chunks;  // first token, first chunk of each document; S + 1 entries
  int64_t heads() const { return H / G / blocks; }
  int64_t tasks() const { return S * G * blocks; }
};

struct Task {
  int64_t document, group, block, head, first, last, chunk;
  Task(const Problem& p, int64_t index) {
    document = index / (p.G * p.blocks);
    group = index / p.blocks % p.G;
    block = index % p.blocks;
    head = (group * p.blocks + block) * p.heads();
    first = p.offsets[document], last = p.offsets[document + 1], chunk = p.chunks[document];
  }
};

constexpr int BAND = 16;  // rows of a triangular product that share one bound; all tiles are padded to it

// Padded sizes and the tiles that forward and backward share.
struct Tiles {
  int q, p, n;
  float *B, *C, *Bt, *K, *x, *w, *f, *e, *dt, *L;
  static size_t floats(int q, int p, int n) { return size_t(3) * q * n + q * q + q * p + 6 * q + 256; }
  Tiles(Scratch& s, int q, int p, int n) : q(q), p(p), n(n) {
    B = s.take(q * n), C = s.take(q * n), Bt = s.take(q * n), K = s.take(q * q), x = s.take(q * p);
    w = s.take(q), f = s.take(q), e = s.take(q), dt = s.take(q), L = s.take(q);
  }
  template <class T>
  void load_keys(const Problem& s, const T* B_in, int64_t token, int64_t group, int rows) {
    clear(B, n, rows);
    load(B_in + token * s.B_stride + group * s.N, s.B_stride, rows, s.N, B, n);
  }
  // B, C of one chunk and K = C Bt on and below the diagonal.
  template <class T>
  void load_group(const Problem& s, const T* B_in, const T* C_in, int64_t token, int64_t group, int rows) {
    load_keys(s, B_in, token, group, rows);
    clear(C, n, rows);
    load(C_in + token * s.C_stride + group * s.N, s.C_stride, rows, s.N, C, n);
    transpose(B, n, q, n, Bt, q);
    for (int i = 0; i < q; i += BAND) product(BAND, i + BAND, n, C + i * n, n, Bt, q, K + i * q, q);
  }
  template <class T>
  void load_head(const Problem& s, const T* x_in, const float* dt_in, float A, int64_t token, int64_t head, int rows) {
    clear(x, p, rows);
    load(x_in + token * s.x_stride + head * s.P, s.x_stride, rows, s.P, x, p);
    for (int i = 0; i < q; ++i) dt[i] = i < rows ? dt_in[(token + i) * s.dt_stride + head] : 0.0f;
    for (int i = 0; i < q; ++i) w[i] = fast_exp(dt[i] * A);  // 1 in padding: the state passes through unchanged
    float from_start = 1, to_end = 1;
    for (int i = 0; i < q; ++i) f[i] = from_start = flush(from_start * w[i]);
    for (int j = q - 1; j >= 0; --j) e[j] = to_end, to_end = flush(to_end * w[j]);
  }
  void clear(float* tile, int width, int rows) { std::memset(tile + rows * width, 0, size_t(q - rows) * width * 4); }
  static float flush(float decay) { return decay > TINY ? decay : 0.0f; }
  // L_ij for j <= i from row i - 1.
  void next_decays(int i) {
    for (int j = 0; j < i; ++j) L[j] = flush(L[j] * w[i]);
    L[i] = 1;
  }
};

inline void scale(const float* in, float factor, int count, float* out) {
  for (int i = 0; i < count; ++i) out[i] = in[i] * factor;
}

// state (n x p) from or to (P, N) in memory.
inline void state_in(const float* in, int64_t P, int64_t N, float* state, int p) {
  for (int64_t k = 0; k < P; ++k)
    for (int64_t n = 0; n < N; ++n) state[n * p + k] = in[k * N + n];
}
inline void state_out(const float* state, int64_t P, int64_t N, float* out, int p) {
  for (int64_t k = 0; k < P; ++k)
    for (int64_t n = 0; n < N; ++n) out[k * N + n] = state[n * p + k];
}

template <class T>
struct Inputs {
  const T *x, *B, *C;
  const float *dt, *A, *D;
};

struct Forward : Tiles {
  float *M, *Y, *Bs;
  static size_t floats(int q, int p, int n) { return Tiles::floats(q, p, n) + q * (q + p + n) + 64; }
  Forward(Scratch& s, int q, int p, int n) : Tiles(s, q, p, n) {
    M = s.take(q * q), Y = s.take(q * p), Bs = s.take(q * n);
  }
  // y_i = f_i C_i S + sum_{j<=i} K_ij L_ij dt_j x_j + D x_i, then S = f_end S + sum_j e_j dt_j B_j x_j.
  void advance(float* state, float skip) {
    product(q, p, n, C, n, state, p, Y, p);
    std::memset(M, 0, q * q * 4);
    for (int i = 0; i < q; ++i) {
      next_decays(i);
      for (int j = 0; j <= i; ++j) M[i * q + j] = K[i * q + j] * L[j] * dt[j];
      for (int c = 0; c < p; ++c) Y[i * p + c] = Y[i * p + c] * f[i] + skip * x[i * p + c];
    }
    for (int i = 0; i < q; i += BAND) product(BAND, p, i + BAND, M + i * q, q, x, p, Y + i * p, p, true);
    move(state);
  }
  void move(float* state) {
    for (int j = 0; j < q; ++j) scale(B + j * n, e[j] * dt[j], n, Bs + j * n);
    scale(state, f[q - 1], n * p, state);
    product<true>(n, p, q, Bs, n, x, p, state, p, true);
  }
};

// Without y only the states are found, and C is not read.
template <class T>
void forward(const Problem& s, const Inputs<T>& in, const float* initial, T* y, float* final_state, float* entering) {
  const int q = pad(s.Q, BAND), p = pad(s.P, BAND), n = pad(s.N, BAND);
#pragma omp parallel
  {
    const int64_t heads = s.heads();
    Scratch scratch(Forward::floats(q, p, n) + heads * n * p);
    Forward t(scratch, q, p, n);
    float* states = scratch.take(heads * n * p);
#pragma omp for schedule(dynamic)
    for (int64_t index = 0; index < s.tasks(); ++index) {
      const Task k(s, index);
      const int64_t slot = (k.document * s.H + k.head) * s.P * s.N;
      std::memset(states, 0, heads * n * p * 4);
      for (int64_t h = 0; initial && h < heads; ++h)
        state_in(initial + slot + h * s.P * s.N, s.P, s.N, states + h * n * p, p);
      int64_t chunk = k.chunk;
      for (int64_t token = k.first; token < k.last; token += s.Q, ++chunk) {
        const int rows = std::min(s.Q, k.last - token);
        y ? t.load_group(s, in.B, in.C, token, k.group, rows) : t.load_keys(s, in.B, token, k.group, rows);
        for (int64_t h = 0; h < heads; ++h) {
          const int64_t head = k.head + h;
          float* state = states + h * n * p;
          if (entering) std::memcpy(entering + (chunk * s.H + head) * n * p, state, size_t(n) * p * 4);
          t.load_head(s, in.x, in.dt, in.A[head], token, head, rows);
          if (!y) {
            t.move(state);
            continue;
          }
          t.advance(state, in.D ? in.D[head] : 0.0f);
          store(t.Y, p, rows, s.P, y + (token * s.H + head) * s.P, s.H * s.P);
        }
      }
      for (int64_t h = 0; h < heads; ++h)
        state_out(states + h * n * p, s.P, s.N, final_state + slot + h * s.P * s.N, p);
    }
  }
}

struct Gradients {
  void* x;
  float *dt, *B, *C;       // B, C: (blocks, T, G, N), summed over blocks by the caller
  float *A, *D, *initial;  // A, D: (S, H), summed over documents by the caller
};

// One chunk of one head, backwards. `flow` is the gradient of the state that leaves the chunk, (n, p).
struct Backward : Tiles {
  float *M, *dM, *dK, *xt, *g, *dx, *BG, *dB, *dC, *tile, *Cs, *flipped, *column, *open, *pairs, *u, *v;
  float passing;  // gradient of the log-decay of the whole chunk
  static size_t floats(int q, int p, int n) {
    return Tiles::floats(q, p, n) + 3 * q * q + 4 * q * p + 4 * q * n + n * p + 5 * q + 512;
  }
  Backward(Scratch& s, int q, int p, int n) : Tiles(s, q, p, n) {
    M = s.take(q * q), dM = s.take(q * q), dK = s.take(q * q);
    xt = s.take(p * q), g = s.take(q * p), dx = s.take(q * p), BG = s.take(q * p);
    dB = s.take(q * n), dC = s.take(q * n), tile = s.take(q * n), Cs = s.take(q * n), flipped = s.take(n * p);
    column = s.take(q), open = s.take(q), pairs = s.take(q), u = s.take(q), v = s.take(q);
  }
  void start_chunk() {
    std::memset(dK, 0, q * q * 4), std::memset(dB, 0, q * n * 4), std::memset(dC, 0, q * n * 4);
  }
  // y_i = sum_{j<=i} M_ij x_j + D x_i with M_ij = K_ij L_ij dt_j.
  void inside(float skip) {
    transpose(x, p, q, p, xt, q);
    for (int i = 0; i < q; i += BAND) product(BAND, i + BAND, p, g + i * p, p, xt, q, dM + i * q, q);
    std::memset(M, 0, q * q * 4), std::memset(column, 0, q * 4);
    for (int i = 0; i < q; ++i) {
      next_decays(i);
      const float* k = K + i * q;
      float *m = M + i * q, *d = dM + i * q, *dk = dK + i * q;
      for (int j = 0; j <= i; ++j) {
        const float through = L[j] * d[j], pull = through * k[j];
        m[j] = k[j] * L[j] * dt[j];
        dk[j] += through * dt[j];
        column[j] += pull;
        d[j] = pull * dt[j];  // gradient of the logarithm of L_ij
      }
    }
    sum_pairs();
    scale(g, skip, q * p, dx);
    for (int j = 0; j < q; j += BAND) product<true>(BAND, p, q - j, M + j * q + j, q, g + j * p, p, dx + j * p, p, true);
  }
  // pairs_k: sum over j < k <= i of the gradients of log L_ij. Differences of row and column sums would cancel.
  void sum_pairs() {
    std::memset(open, 0, q * 4);
    pairs[0] = 0;
    for (int k = q - 1; k > 0; --k) {
      float sum = 0;
      for (int j = 0; j < k; ++j) sum += open[j] += dM[k * q + j];
      pairs[k] = sum;
    }
  }
  // The state behind the chunk: sum_j e_j dt_j B_j x_j.
  void behind(const float* flow) {
    product(q, p, n, B, n, flow, p, BG, p);
    transpose(flow, p, n, p, flipped, n);
    product(q, n, p, x, p, flipped, n, tile, n);
    for (int j = 0; j < q; ++j) {
      const float weight = e[j] * dt[j];
      u[j] = dot(x + j * p, BG + j * p, p);
      for (int c = 0; c < p; ++c) dx[j * p + c] += weight * BG[j * p + c];
      for (int c = 0; c < n; ++c) dB[j * n + c] += weight * tile[j * n + c];
    }
  }
  // The state before the chunk: it adds f_i C_i S to y_i and leaves as f_end S. Moves `flow` to the chunk's start.
  void before(const float* state, float* flow) {
    transpose(state, p, n, p, flipped, n);
    product(q, n, p, g, p, flipped, n, tile, n);
    for (int i = 0; i < q; ++i) {
      v[i] = f[i] * dot(C + i * n, tile + i * n, n);
      for (int c = 0; c < n; ++c) dC[i * n + c] += f[i] * tile[i * n + c];
      scale(C + i * n, f[i], n, Cs + i * n);
    }
    passing = f[q - 1] * dot(flow, state, n * p);
    scale(flow, f[q - 1], n * p, flow);
    product<true>(n, p, q, Cs, n, g, p, flow, p, true);
  }
  // What `inside` and `before` leave where there are no outputs.
  void without_outputs(const float* state, float* flow) {
    std::memset(dx, 0, q * p * 4), std::memset(v, 0, q * 4), std::memset(pairs, 0, q * 4), std::memset(column, 0, q * 4);
    behind(flow);
    passing = f[q - 1] * dot(flow, state, n * p);
    scale(flow, f[q - 1], n * p, flow);
  }
  // Gradients of dt (written with `stride`) and of the head's rate A (returned). The log-decay a_k = dt_k A enters all
  // pairs j < k <= i, f_i for i >= k, e_j for j < k, and the passage of the state.
  float decays(int rows, float rate, float* d_dt, int64_t stride) {
    double d_rate = 0;  // contributions of both signs cancel
    float earlier = 0;
    for (int i = q - 2; i >= 0; --i) v[i] += v[i + 1];
    for (int i = 0; i < rows; ++i) {
      const float d_decay = pairs[i] + v[i] + earlier + passing;
      d_dt[i * stride] = rate * d_decay + column[i] + e[i] * u[i];
      d_rate += d_decay * dt[i];
      earlier += e[i] * dt[i] * u[i];
    }
    return d_rate;
  }
  // B and C through K_ij = C_i B_j, once for all heads of the block.
  void finish_chunk() {
    for (int i = 0; i < q; i += BAND) {
      product(BAND, n, i + BAND, dK + i * q, q, B, n, dC + i * n, n, true);
      product<true>(BAND, n, q - i, dK + i * q + i, q, C + i * n, n, dB + i * n, n, true);
    }
  }
};

// Without dy it is the backward pass of a forward pass without y.
template <class T>
void backward(const Problem& s, const Inputs<T>& in, const float* entering, const T* dy, const float* d_final,
              const Gradients& out) {
  const int q = pad(s.Q, BAND), p = pad(s.P, BAND), n = pad(s.N, BAND);
#pragma omp parallel
  {
    const int64_t heads = s.heads(), tokens = s.offsets[s.S];
    Scratch scratch(Backward::floats(q, p, n) + heads * n * p);
    Backward t(scratch, q, p, n);
    float* flows = scratch.take(heads * n * p);
#pragma omp for schedule(dynamic)
    for (int64_t index = 0; index < s.tasks(); ++index) {
      const Task k(s, index);
      const int64_t slot = k.document * s.H + k.head;
      std::memset(flows, 0, heads * n * p * 4);
      for (int64_t h = 0; h < heads; ++h) {
        state_in(d_final + (slot + h) * s.P * s.N, s.P, s.N, flows + h * n * p, p);
        out.A[slot + h] = 0;
        if (dy) out.D[slot + h] = 0;
      }
      for (int64_t step = (k.last - k.first + s.Q - 1) / s.Q - 1; step >= 0; --step) {
        const int64_t token = k.first + step * s.Q, chunk = k.chunk + step;
        const int rows = std::min(s.Q, k.last - token);
        dy ? t.load_group(s, in.B, in.C, token, k.group, rows) : t.load_keys(s, in.B, token, k.group, rows);
        t.start_chunk();
        for (int64_t h = 0; h < heads; ++h) {
          const int64_t head = k.head + h, place = (token * s.H + head) * s.P;
          t.load_head(s, in.x, in.dt, in.A[head], token, head, rows);
          const float* state = entering + (chunk * s.H + head) * n * p;
          float* flow = flows + h * n * p;
          if (dy) {
            t.clear(t.g, p, rows);
            load(dy + place, s.H * s.P, rows, s.P, t.g, p);
            t.inside(in.D ? in.D[head] : 0.0f);
            t.behind(flow);
            t.before(state, flow);
            out.D[slot + h] += dot(t.x, t.g, q * p);
          } else {
            t.without_outputs(state, flow);
          }
          out.A[slot + h] += t.decays(rows, in.A[head], out.dt + token * s.H + head, s.H);
          store(t.dx, p, rows, s.P, static_cast<T*>(out.x) + place, s.H * s.P);
        }
        const int64_t at = ((k.block * tokens + token) * s.G + k.group) * s.N;
        if (dy) {
          t.finish_chunk();
          store(t.dC, n, rows, s.N, out.C + at, s.G * s.N);
        }
        store(t.dB, n, rows, s.N, out.B + at, s.G * s.N);
      }
      for (int64_t h = 0; h < heads; ++h)
        state_out(flows + h * n * p, s.P, s.N, out.initial + (slot + h) * s.P * s.N, p);
    }
  }
}

}  // namespace
}  // namespace tandem

using tandem::bf16;

// `sizes`: S, H, P, G, N, Q, blocks, then row strides of x, B, C and dt. `narrow`: x, B, C and y are bfloat16.
#define TANDEM_SSD_PROBLEM \
  tandem::Problem{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4],  sizes[5], \
                  sizes[6], sizes[7], sizes[8], sizes[9], sizes[10], offsets,  chunks}
#define TANDEM_SSD_INPUTS(T) \
  tandem::Inputs<T> { static_cast<const T*>(x), static_cast<const T*>(B), static_cast<const T*>(C), dt, A, D }

extern "C" void tandem_ssd_forward(const int64_t* sizes, const int64_t* offsets, const int64_t* chunks, int narrow,
                                   const void* x, const void* B, const void* C, const float* dt, const float* A,
                                   const float* D, const float* initial, void* y, float* final_state,
                                   float* entering) {
  const auto problem = TANDEM_SSD_PROBLEM;
  if (narrow)
    tandem::forward<bf16>(problem, TANDEM_SSD_INPUTS(bf16), initial, static_cast<bf16*>(y), final_state, entering);
  else
    tandem::forward<float>(problem, TANDEM_SSD_INPUTS(float), initial, static_cast<float*>(y), final_state, entering);
}

extern "C" void tandem_ssd_backward(const int64_t* sizes, const int64_t* offsets, const int64_t* chunks, int narrow,
                                    const void* x, const void* B, const void* C, const float* dt, const float* A,
                                    const float* D, const float* entering, const void* dy, const float* d_final,
                                    void* dx, float* d_dt, float* dB, float* dC, float* dA, float* dD, float* initial) {
  const auto problem = TANDEM_SSD_PROBLEM;
  const tandem::Gradients out{dx, d_dt, dB, dC, dA, dD, initial};
  if (narrow)
    tandem::backward<bf16>(problem, TANDEM_SSD_INPUTS(bf16), entering, static_cast<const bf16*>(dy), d_final, out);
  else
    tandem::backward<float>(problem, TANDEM_SSD_INPUTS(float), entering, static_cast<const float*>(dy), d_final, out);
}
