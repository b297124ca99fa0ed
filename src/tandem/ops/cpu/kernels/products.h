// Products of a few rows x with a matrix that is read once: how a vector of weights of each format meets x.
//
// bfloat16 meets bfloat16 in pairs where the processor has such an instruction (AVX-512 BF16). Weights of int8 meet x of
// int16 where it has that one (AVX-512 VNNI); 14 bits and a scale a row keep more of x than bfloat16 does. Everything else
// meets as float.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include <type_traits>
#include <utility>
#include <vector>

#include "tile.h"

namespace tandem {

inline Vector widened(const float* from) { return *(const Vector*)from; }
inline Vector widened(const bf16* from) {
  typedef uint16_t Half __attribute__((vector_size(2 * LANES), aligned(2)));
  typedef uint32_t Word __attribute__((vector_size(4 * LANES)));
  return (Vector)(__builtin_convertvector(*(const Half*)from, Word) << 16);
}
inline Vector widened(const int8_t* from) {
  typedef int8_t Byte __attribute__((vector_size(LANES), aligned(1)));
  return __builtin_convertvector(*(const Byte*)from, Vector);
}
inline float widen(int8_t value) { return value; }
inline float widen(int16_t value) { return value; }

#if defined(__AVX512F__)
// Sixteen vectors' totals at a fifth of the instructions that sixteen sums across one vector take.
inline void totals_of_16(const Vector* v, float* out) {
  __m512 r[16], t[8];
  for (int i = 0; i < 16; ++i) r[i] = (__m512)v[i];
  for (int i = 0; i < 8; ++i)
    t[i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]) + _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  for (int i = 0; i < 4; ++i) {
    const __m512d a = (__m512d)t[2 * i], b = (__m512d)t[2 * i + 1];
    r[i] = (__m512)_mm512_unpacklo_pd(a, b) + (__m512)_mm512_unpackhi_pd(a, b);
  }
  for (int i = 0; i < 2; ++i)
    t[i] = _mm512_shuffle_f32x4(r[2 * i], r[2 * i + 1], 0x88) + _mm512_shuffle_f32x4(r[2 * i], r[2 * i + 1], 0xdd);
  _mm512_storeu_ps(out, _mm512_shuffle_f32x4(t[0], t[1], 0x88) + _mm512_shuffle_f32x4(t[0], t[1], 0xdd));
}
inline float total(Vector v) {
  __m512 x = (__m512)v;
  x += _mm512_shuffle_f32x4(x, x, 0x4e);
  x += _mm512_shuffle_f32x4(x, x, 0xb1);
  x += _mm512_permute_ps(x, 0x4e);
  x += _mm512_permute_ps(x, 0xb1);
  return x[0];
}
#else
inline float total(Vector v) {
  float sum = 0;
  for (int i = 0; i < LANES; ++i) sum += v[i];
  return sum;
}
#endif

// out[i] = the sum across v[i].
template <int COUNT>
inline void totals(const Vector* v, float* out) {
  int i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= COUNT; i += 16) totals_of_16(v + i, out + i);
#endif
  for (; i < COUNT; ++i) out[i] = total(v[i]);
}

// The format that rows of T take to meet weights of W.
template <class T, class W>
struct Operand {
  using X = float;
};

// Along a row of weights: STEP of them meet as many of x.
template <class X, class W>
struct Along {
  static constexpr int STEP = LANES;
  using Sum = Vector;
  static Vector hold(const W* w) { return widened(w); }
  static void add(Sum& sum, const X* x, Vector held) { sum += widened(x) * held; }
  static void join(Sum& sum, Sum other) { sum += other; }
  static Vector end(Sum sum) { return sum; }
};

// Down the columns of a matrix: DEPTH rows of WIDTH weights meet DEPTH of x; `settle` turns WIDTH sums into floats in order.
template <class X, class W>
struct Down {
  static constexpr int DEPTH = 1, WIDTH = LANES;
  struct Sum {
    Vector all;
    explicit Sum(const float* from) : all(*(const Vector*)from) {}
    void store(float* to) const { *(Vector*)to = all; }
  };
  Vector held;
  Down(const W* w, int64_t) : held(widened(w)) {}
  void add(Sum& sum, const X* x) const { sum.all += widen(*x) * held; }
  static void settle(float*) {}
};

#if defined(__AVX512BF16__) || defined(__AVX512VNNI__)
// Interleaving two rows leaves columns 0-3 and 4-7 of every eight in two vectors.
inline void in_order(__m512 low, __m512 high, float* to) {
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  _mm512_storeu_ps(to, _mm512_permutex2var_ps(low, first, high));
  _mm512_storeu_ps(to + 16, _mm512_permutex2var_ps(low, second, high));
}
inline int32_t pair_at(const void* x) {
  int32_t pair;
  std::memcpy(&pair, x, 4);
  return pair;
}
#endif

#if defined(__AVX512BF16__)
template <>
struct Operand<bf16, bf16> {
  using X = bf16;
};
template <>
struct Along<bf16, bf16> {
  static constexpr int STEP = 32;
  using Sum = __m512;
  static __m512bh hold(const bf16* w) { return (__m512bh)_mm512_loadu_si512(w); }
  static void add(Sum& sum, const bf16* x, __m512bh held) {
    sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(x), held);
  }
  static void join(Sum& sum, Sum other) { sum = _mm512_add_ps(sum, other); }
  static Vector end(Sum sum) { return (Vector)sum; }
};
template <>
struct Down<bf16, bf16> {
  static constexpr int DEPTH = 2, WIDTH = 32;
  struct Sum {
    __m512 low, high;
    explicit Sum(const float* from) : low(_mm512_loadu_ps(from)), high(_mm512_loadu_ps(from + 16)) {}
    void store(float* to) const { _mm512_storeu_ps(to, low), _mm512_storeu_ps(to + 16, high); }
  };
  __m512i low, high;
  Down(const bf16* w, int64_t stride) {
    const __m512i first = _mm512_loadu_si512(w), second = _mm512_loadu_si512(w + stride);
    low = _mm512_unpacklo_epi16(first, second), high = _mm512_unpackhi_epi16(first, second);
  }
  void add(Sum& sum, const bf16* x) const {
    const __m512bh pair = (__m512bh)_mm512_set1_epi32(pair_at(x));
    sum.low = _mm512_dpbf16_ps(sum.low, pair, (__m512bh)low);
    sum.high = _mm512_dpbf16_ps(sum.high, pair, (__m512bh)high);
  }
  static void settle(float* sum) { in_order(_mm512_loadu_ps(sum), _mm512_loadu_ps(sum + 16), sum); }
};
#endif

#if defined(__AVX512VNNI__)
template <class T>
struct Operand<T, int8_t> {
  using X = int16_t;
};
template <>
struct Along<int16_t, int8_t> {
  static constexpr int STEP = 32;
  using Sum = __m512i;
  static __m512i hold(const int8_t* w) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)w)); }
  static void add(Sum& sum, const int16_t* x, __m512i held) {
    sum = _mm512_dpwssd_epi32(sum, _mm512_loadu_si512(x), held);
  }
  static void join(Sum& sum, Sum other) { sum = _mm512_add_epi32(sum, other); }
  static Vector end(Sum sum) { return (Vector)_mm512_cvtepi32_ps(sum); }
};
template <>
struct Down<int16_t, int8_t> {
  static constexpr int DEPTH = 2, WIDTH = 32;
  struct Sum {
    __m512i low, high;
    explicit Sum(const float* from) : low(_mm512_loadu_si512(from)), high(_mm512_loadu_si512(from + 16)) {}
    void store(float* to) const { _mm512_storeu_si512(to, low), _mm512_storeu_si512(to + 16, high); }
  };
  __m512i low, high;
  Down(const int8_t* w, int64_t stride) {
    using A = Along<int16_t, int8_t>;
    const __m512i first = A::hold(w), second = A::hold(w + stride);
    low = _mm512_unpacklo_epi16(first, second), high = _mm512_unpackhi_epi16(first, second);
  }
  void add(Sum& sum, const int16_t* x) const {
    const __m512i pair = _mm512_set1_epi32(pair_at(x));
    sum.low = _mm512_dpwssd_epi32(sum.low, pair, low);
    sum.high = _mm512_dpwssd_epi32(sum.high, pair, high);
  }
  static void settle(float* sum) {
    const __m512 low = _mm512_cvtepi32_ps(_mm512_loadu_si512(sum));
    in_order(low, _mm512_cvtepi32_ps(_mm512_loadu_si512(sum + 16)), sum);
  }
};
#endif

// Rows of T as operands of weights of W: x = scale · values. Rows that need no change are not copied.
template <class T, class W>
class Rows {
 public:
  using X = typename Operand<T, W>::X;
  Rows(const T* x, int64_t rows, int64_t width) : width_(width) { fill(x, rows, (X*)nullptr); }
  const X* row(int64_t r) const { return at_ + r * width_; }
  float scale(int64_t r) const { return scale_.empty() ? 1.0f : scale_[r]; }

 private:
  void fill(const T* x, int64_t, T*) { at_ = x; }
  template <class Other>
  void fill(const T* x, int64_t rows, Other*) {
    copy_.resize(rows * width_);
    for (int64_t i = 0; i < rows * width_; ++i) copy_[i] = widen(x[i]);
    at_ = copy_.data();
  }
  void fill(const T* x, int64_t rows, int16_t*) {
    constexpr float MOST = 8191;  // sums of 32,768 products with 127 stay below 2^31
    copy_.resize(rows * width_), scale_.resize(rows);
    for (int64_t r = 0; r < rows; ++r) {
      const T* from = x + r * width_;
      float top = 1e-30f;
      for (int64_t i = 0; i < width_; ++i) top = std::max(top, std::fabs(widen(from[i])));
      for (int64_t i = 0; i < width_; ++i) copy_[r * width_ + i] = std::lrintf(widen(from[i]) * (MOST / top));
      scale_[r] = top / MOST;
    }
    at_ = copy_.data();
  }
  int64_t width_;
  std::vector<X> copy_;
  std::vector<float> scale_;
  const X* at_;
};

constexpr int64_t AHEAD = 4096;  // bytes of weights asked for early: the hardware stops asking at the end of a page

// y[m * R + r] = x_m w_r for M rows of x and R rows of weights, each D long; these lie `apart` from each other.
template <int M, int R, class X, class W>
inline void dots(const X* x, const W* w, int64_t D, int64_t apart, float* y) {
  using A = Along<X, W>;
  constexpr int CHAINS = M == 1 ? 4 : 1;  // independent sums hide the latency of an addition
  typename A::Sum sum[M][R][CHAINS] = {};
  int64_t d = 0;
  for (; d + CHAINS * A::STEP <= D; d += CHAINS * A::STEP)
    for (int c = 0; c < CHAINS; ++c)
      for (int r = 0; r < R; ++r) {
        const W* at = w + r * apart + d + c * A::STEP;
        __builtin_prefetch((const char*)at + AHEAD);
        const auto held = A::hold(at);
        for (int m = 0; m < M; ++m) A::add(sum[m][r][c], x + m * D + d + c * A::STEP, held);
      }
  Vector joined[M * R];
  for (int m = 0; m < M; ++m)
    for (int r = 0; r < R; ++r) {
      for (int c = 1; c < CHAINS; ++c) A::join(sum[m][r][0], sum[m][r][c]);
      joined[m * R + r] = A::end(sum[m][r][0]);
    }
  totals<M * R>(joined, y);
  for (; d < D; ++d)
    for (int m = 0; m < M; ++m)
      for (int r = 0; r < R; ++r) y[m * R + r] += widen(x[m * D + d]) * widen(w[r * apart + d]);
}

// Eight rows of one stripe of columns. A pack, not an array, of sums: compilers keep it in registers.
template <class X, class W, int... M>
inline void add_block(const X* const* x, int64_t first, const W* w, int64_t stride, float* const* sum, int64_t column,
                      std::integer_sequence<int, M...>) {
  using D = Down<X, W>;
  typename D::Sum block[] = {typename D::Sum(sum[M] + column)...};
  const X* at[] = {(x[M] + first)...};
#pragma GCC unroll 8
  for (int r = 0; r < 8; r += D::DEPTH) {
    for (int d = 0; d < D::DEPTH; ++d) __builtin_prefetch(w + (8 + r + d) * stride);
    const D held(w + r * stride, stride);
    (held.add(block[M], at[M] + r), ...);
  }
  (block[M].store(sum[M] + column), ...);
}

// sum_m += x_m w for M rows of x and `rows` of w, which lie `stride` apart; sums need `settle_all` at the end. Some rows of
// weights at once, so that the sums are in registers as long as possible.
template <int M, class X, class W>
inline void add_down(const X* const* x, const W* w, int64_t rows, int64_t stride, int64_t columns, float* const* sum) {
  for (int64_t first = 0; first < rows; first += 8)
    for (int64_t c = 0; c < columns; c += Down<X, W>::WIDTH)
      add_block<X, W>(x, first, w + first * stride + c, stride, sum, c, std::make_integer_sequence<int, M>());
}

// Calls each(first, M) for M documents from `first` on, M a constant of the compiler.
template <class Each>
void in_tiles(int64_t documents, Each&& each) {
  int64_t d = 0;
  for (; d + 8 <= documents; d += 8) each(d, std::integral_constant<int, 8>());
  for (; d + 4 <= documents; d += 4) each(d, std::integral_constant<int, 4>());
  for (; d + 2 <= documents; d += 2) each(d, std::integral_constant<int, 2>());
  for (; d < documents; ++d) each(d, std::integral_constant<int, 1>());
}

template <class X, class W>
void settle_all(float* sum, int64_t columns) {
  for (int64_t c = 0; c < columns; c += Down<X, W>::WIDTH) Down<X, W>::settle(sum + c);
}

}  // namespace tandem
