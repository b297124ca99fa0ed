// Small dense tiles: vector types, bfloat16, and one matrix product whose accumulators stay in registers.
//
// Tiles are row-major float with 64-byte rows; rows are padded to a multiple of `ROWS`, columns to a multiple of `LANES`,
// and padding holds zeros, so that no loop needs a remainder.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

namespace tandem {

#if defined(__AVX512F__)
constexpr int LANES = 16, STRIPES = 4;  // 4 rows x 4 vectors of accumulators fill half of the 32 registers
#elif defined(__AVX__)
constexpr int LANES = 8, STRIPES = 2;
#else
constexpr int LANES = 4, STRIPES = 4;
#endif
constexpr int ROWS = 4;
constexpr float TINY = 1e-30f;  // decays below become 0: denormal numbers are slow and count for nothing

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4)));

inline int pad(int n, int to) { return (n + to - 1) / to * to; }

struct bf16 {
  uint16_t bits;
};

inline float widen(float value) { return value; }
inline float widen(bf16 value) {
  uint32_t bits = uint32_t(value.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, 4);
  return wide;
}

template <class T>
T narrow(float value);
template <>
inline float narrow<float>(float value) {
  return value;
}
template <>
inline bf16 narrow<bf16>(float value) {  // to nearest, ties to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return bf16{uint16_t(value != value ? 0x7fc0u : rounded)};
}

// e^x by Cody and Waite's reduction and a polynomial of degree 6; relative error below 2e-7, vectorizes everywhere.
inline float fast_exp(float x) {
  x = std::min(std::max(x, -87.3f), 88.3f);
  float n = std::nearbyintf(x * 1.44269504f);
  float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691e-4f;
  p = p * r + 1.3981999e-3f;
  p = p * r + 8.3334519e-3f;
  p = p * r + 4.1665796e-2f;
  p = p * r + 1.6666665e-1f;
  p = p * r + 5.0000001e-1f;
  p = p * r * r + r + 1.0f;
  int32_t scale = (int32_t(n) + 127) << 23;
  float power;
  std::memcpy(&power, &scale, 4);
  return p * power;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

// Parameters of either format as floats; narrow ones are copied.
class Floats {
 public:
  Floats(const void* from, bool is_narrow, int64_t count) : at_(static_cast<const float*>(from)) {
    if (!is_narrow) return;
    copy_.resize(count);
    for (int64_t i = 0; i < count; ++i) copy_[i] = widen(static_cast<const bf16*>(from)[i]);
    at_ = copy_.data();
  }
  operator const float*() const { return at_; }

 private:
  std::vector<float> copy_;
  const float* at_;
};

// Zeroed scratch memory of one thread, handed out in 64-byte aligned pieces.
class Scratch {
 public:
  explicit Scratch(size_t floats) : size_(floats + 64) {
    memory_ = static_cast<float*>(std::aligned_alloc(64, pad(int64_t(size_) * 4, 64)));
    if (memory_ == nullptr) throw std::bad_alloc();
    std::memset(memory_, 0, size_ * 4);
  }
  ~Scratch() { std::free(memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* take(size_t floats) {
    float* piece = memory_ + used_;
    used_ += (floats + 15) / 16 * 16;
    return piece;
  }

 private:
  static size_t pad(int64_t bytes, int64_t to) { return size_t((bytes + to - 1) / to * to); }
  float* memory_;
  size_t size_, used_ = 0;
};

template <bool TRANSPOSED, int N>
inline void product_block(int depth, const float* a, int lda, const float* b, int ldb, float* c, int ldc, bool add) {
  Vector sum[ROWS][N];
  for (int r = 0; r < ROWS; ++r)
    for (int n = 0; n < N; ++n) sum[r][n] = add ? *(const Vector*)(c + r * ldc + n * LANES) : Vector{};
  for (int k = 0; k < depth; ++k) {
    Vector row[N];
    for (int n = 0; n < N; ++n) row[n] = *(const Vector*)(b + k * ldb + n * LANES);
    for (int r = 0; r < ROWS; ++r) {
      float left = TRANSPOSED ? a[k * lda + r] : a[r * lda + k];
      for (int n = 0; n < N; ++n) sum[r][n] += left * row[n];
    }
  }
  for (int r = 0; r < ROWS; ++r)
    for (int n = 0; n < N; ++n) *(Vector*)(c + r * ldc + n * LANES) = sum[r][n];
}

// c (rows x columns) = a b, or c += a b with `add`; with TRANSPOSED, a is stored as (depth x rows).
template <bool TRANSPOSED = false>
inline void product(int rows, int columns, int depth, const float* a, int lda, const float* b, int ldb, float* c,
                    int ldc, bool add = false) {
  for (int i = 0; i < rows; i += ROWS) {
    const float* left = TRANSPOSED ? a + i : a + i * lda;
    int j = 0;
    for (; j + STRIPES * LANES <= columns; j += STRIPES * LANES)
      product_block<TRANSPOSED, STRIPES>(depth, left, lda, b + j, ldb, c + i * ldc + j, ldc, add);
    for (; j < columns; j += LANES)
      product_block<TRANSPOSED, 1>(depth, left, lda, b + j, ldb, c + i * ldc + j, ldc, add);
  }
}

// out (rows x columns, leading dimension ldo) = in, widened; `stride` in elements between rows of `in`.
template <class T>
inline void load(const T* in, int64_t stride, int rows, int columns, float* out, int ldo) {
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < columns; ++j) out[i * ldo + j] = widen(in[i * stride + j]);
}

// The opposite of `load`; padding is left out.
template <class T>
inline void store(const float* in, int ldi, int rows, int columns, T* out, int64_t stride) {
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < columns; ++j) out[i * stride + j] = narrow<T>(in[i * ldi + j]);
}

inline void transpose(const float* in, int ldi, int rows, int columns, float* out, int ldo) {
  constexpr int B = 16;
  for (int i0 = 0; i0 < rows; i0 += B)
    for (int j0 = 0; j0 < columns; j0 += B)
      for (int j = j0; j < std::min(j0 + B, columns); ++j)
        for (int i = i0; i < std::min(i0 + B, rows); ++i) out[j * ldo + i] = in[i * ldi + j];
}

inline float dot(const float* a, const float* b, int n) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace tandem
