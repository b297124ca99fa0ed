// A decode step as a list of instructions: one token of each of S documents, work that reads every weight once, so memory
// bandwidth is the limit. All threads walk the list together and meet where one needs what another has made.
//
// The structures are those of instructions.py, member by member, all 8 bytes wide. Shapes: S documents, L slots of a cache,
// D width, O outputs, E experts, K choices, F expert width, H heads, P head width, G groups or key/value heads, N state
// width, C convolution channels, W taps.
#pragma once

#include <omp.h>

#include "tile.h"

namespace tandem {

// One of the threads that run a step.
struct Team {
  int64_t index, size;
  struct Range {
    int64_t first, last;
  };
  Range share(int64_t count, int64_t grain = 1) const {  // multiples of `grain`, the end aside
    const int64_t grains = (count + grain - 1) / grain;
    return {std::min(count, grains * index / size * grain), std::min(count, grains * (index + 1) / size * grain)};
  }
  void meet() const {
#pragma omp barrier
  }
};

enum Format : int64_t { FLOAT = 0, BFLOAT = 1, INT8 = 2 };

struct Matrix {
  const void* data;
  Format format;
  const float* scale;  // of int8: one of each output
};

struct Embed {  // x = scale · table[token]
  int64_t S, D;
  Format format;
  const int64_t* tokens;
  Matrix table;
  double scale;
  void* x;
};

struct AddNorm {  // x += scale · y, then out = gain · norm(x) · weight, each of `groups` by itself; y or out may be null
  int64_t S, D, groups;
  Format format;
  double eps, scale, gain;
  const void *weight, *y;
  void *x, *out;
};

struct Linear {  // y = x Wᵀ + bias, which may be null
  int64_t S, D, O;
  Format format;
  Matrix weight;
  const void *bias, *x;
  void* y;
};

enum Function : int64_t { SWIGLU = 0, RELU2 = 1 };

struct Activate {  // y = silu(gate) · up of rows [gate | up], or relu(x)²
  int64_t S, F;
  Format format;
  Function function;
  const void* x;
  void* y;
};

struct Mixture {  // routed experts (E, D, 2F) and (E, F, D), and one of width shared_F that is always on
  int64_t S, D, F, K, E, shared_F, threads;
  Format format;
  const float *router, *bias;
  Matrix gate_up, down, shared_gate_up, shared_down;
  const void* x;
  float* scratch;  // mixture_scratch(...) floats
  int64_t* expert;
  float *weight, *scores;
  void* y;
};

struct MambaStep {  // the middle of a layer: rows [z | x | B | C | dt] to what the second projection takes; or, if `y` is
                    // null, only halo and state move on, and `qkv` gets the rows [C | B | x] behind the convolution
  int64_t S, H, P, G, N, W, norm_groups;
  Format format, weights;
  double eps, least, most;  // of the norm; step sizes are kept between the last two
  const void *taps, *bias, *norm;  // taps: (C, W)
  const float *A_log, *dt_bias, *D;
  const void* in;
  void* halo;
  float *state, *scratch;  // scratch: S · C
  void *y, *qkv;
  int64_t inner() const { return H * P; }
  int64_t channels() const { return H * P + 2 * G * N; }
};

struct Place {  // norms and turns queries and keys of rows [q | k | v], and puts keys and values into the cache
  int64_t S, L, H, G, P, norm_first, pairs;  // pairs of channels of a head that RoPE turns
  Format format;
  double eps, amplitude;        // of the norms, of the channels that turn
  const void *q_norm, *k_norm;  // null without
  const float* frequencies;     // of the pairs
  const int64_t* positions;
  const void* in;
  void *q, *k, *v;
};

struct Attend {  // y = softmax(scale · q kᵀ) v over the first positions[s] + 1 slots of a cache
  int64_t S, L, H, G, P;
  Format format;
  double scale;
  const int64_t* positions;
  const void *q, *k, *v;
  float* scratch;  // S · G · pieces(L) · H / G · (P + 2)
  void* y;
};

void run(const Embed&, const Team&);
void run(const AddNorm&, const Team&);
void run(const Linear&, const Team&);
void run(const Activate&, const Team&);
void run(const Mixture&, const Team&);
void run(const MambaStep&, const Team&);
void run(const Place&, const Team&);
void run(const Attend&, const Team&);

}  // namespace tandem

// Calls name<T, W> for the formats of x and of the weights.
#define TANDEM_BY_FORMATS(name, s, weights)                                     \
  if (s.format == FLOAT && weights == FLOAT) name<float, float>(s, team);       \
  if (s.format == FLOAT && weights == BFLOAT) name<float, bf16>(s, team);       \
  if (s.format == FLOAT && weights == INT8) name<float, int8_t>(s, team);       \
  if (s.format == BFLOAT && weights == FLOAT) name<bf16, float>(s, team);       \
  if (s.format == BFLOAT && weights == BFLOAT) name<bf16, bf16>(s, team);       \
  if (s.format == BFLOAT && weights == INT8) name<bf16, int8_t>(s, team);
