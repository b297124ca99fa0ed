// Rounding to small number formats: the largest finite value of each block, and Q(S x) s.
//
// Shapes: O outer positions, R rows, C columns; blocks of `rows` x `columns`, Y = ceil(R / rows), X = ceil(C / columns).
// Operations and their order are those of ops/quantize.py, so that both forms give the same bits. Exact ones (by powers of
// two) are free to be regrouped by the compiler; the two that round, x S and q s, have bit operations between them.
#include <omp.h>
#include <sys/mman.h>

#include <limits>

#include "tile.h"

namespace tandem {
namespace {

struct Blocks {
  int64_t O, R, C, rows, columns;
  int64_t Y() const { return (R + rows - 1) / rows; }
  int64_t X() const { return (C + columns - 1) / columns; }
};

constexpr int64_t PIECE = 256;  // columns of a piece of work, about: a tall block of columns is shared by the threads

// Calls visit(outer, y, first row, last row, first column, last column) for pieces that are whole blocks wide.
template <class Visit>
void each_piece(const Blocks& s, Visit&& visit) {
  const int64_t width = s.columns * ((PIECE + s.columns - 1) / s.columns), pieces = (s.C + width - 1) / width, Y = s.Y();
#pragma omp parallel for schedule(static) if (s.O * s.R * s.C > 8192)
  for (int64_t piece = 0; piece < s.O * Y * pieces; ++piece) {
    const int64_t c = piece % pieces * width, y = piece / pieces % Y;
    visit(piece / pieces / Y, y, y * s.rows, std::min((y + 1) * s.rows, s.R), c, std::min(c + width, s.C));
  }
}

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline float of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

constexpr uint32_t SIGN = 0x80000000u, INFINITE = 0x7f800000u;

// Non-negative floats are ordered like their bits.
template <class T>
inline int32_t finite_size(T value) {
  const uint32_t size = bits_of(widen(value)) & ~SIGN;
  return size < INFINITE ? int32_t(size) : 0;
}

template <class T>
void block_maxima(const Blocks& s, const T* x, float* maxima) {
  each_piece(s, [&](int64_t o, int64_t y, int64_t first, int64_t last, int64_t begin, int64_t end) {
    float* out = maxima + (o * s.Y() + y) * s.X();
    int32_t top[PIECE] = {};
    for (int64_t r = first; r < last; ++r) {
      const T* row = x + (o * s.R + r) * s.C;
      if (s.columns == 1) {
        for (int64_t c = begin; c < end; ++c) top[c - begin] = std::max(top[c - begin], finite_size(row[c]));
        continue;
      }
      for (int64_t c = begin, b = 0; c < end; c += s.columns, ++b) {
        int32_t most = top[b];
        for (int64_t i = c; i < std::min(c + s.columns, end); ++i) most = std::max(most, finite_size(row[i]));
        top[b] = most;
      }
    }
    for (int64_t c = begin, b = 0; c < end; c += s.columns, ++b) out[c / s.columns] = of_bits(uint32_t(top[b]));
  });
}

enum Rounding { AWAY, EVEN, STOCHASTIC };

struct Format {
  int mantissa, least;
  float largest;
  uint32_t keys[2];
};

inline uint32_t hash(uint32_t word) {
  word = (word ^ (word >> 16)) * 0x7feb352du;
  word = (word ^ (word >> 15)) * 0x846ca68bu;
  return word ^ (word >> 16);
}

template <int ROUNDING>
inline float to_grid(const Format& f, float x, uint32_t place) {
  const uint32_t sign = bits_of(x) & SIGN;
  const float size = std::min(of_bits(bits_of(x) & ~SIGN), f.largest);
  const int exponent = std::max(int(bits_of(size) >> 23) - 127, f.least);
  const float units = size * of_bits(uint32_t(127 + f.mantissa - exponent) << 23);
  float whole;
  if (ROUNDING == EVEN) {
    whole = std::nearbyint(units);
  } else {
    const uint32_t noise = ROUNDING == AWAY ? 0 : hash(hash(place + f.keys[0]) ^ f.keys[1]) >> 8;
    const float bound = ROUNDING == AWAY ? 0.5f : float(int32_t(noise) + 1) * 0x1p-24f;
    whole = std::floor(units);
    whole += units - whole >= bound ? 1.0f : 0.0f;
  }
  const float value = whole * of_bits(uint32_t(127 - f.mantissa + exponent) << 23);
  return of_bits(bits_of(value) | sign);
}

// `count` neighbors, with one scale or one scale each.
template <int ROUNDING, bool SHARED, class In, class Out>
inline void round_row(const Format& f, int64_t count, const In* x, const float* multiplier, const float* step,
                      uint32_t place, Out* y) {
  constexpr float most = std::numeric_limits<float>::max();
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const float given = widen(x[i]);
    const float rounded = to_grid<ROUNDING>(f, given * multiplier[SHARED ? 0 : i], place + uint32_t(i));
    const float value = std::max(std::min(rounded * step[SHARED ? 0 : i], most), -most);
    y[i] = narrow<Out>((bits_of(given) & INFINITE) == INFINITE ? given : value);
  }
}

template <int ROUNDING, class In, class Out>
void round_blocks(const Blocks& s, const Format& f, const In* x, const float* multiplier, const float* step, Out* y) {
  each_piece(s, [&](int64_t o, int64_t band, int64_t first, int64_t last, int64_t begin, int64_t end) {
    const int64_t scales = (o * s.Y() + band) * s.X();
    const float *m = multiplier + scales, *t = step + scales;
    for (int64_t r = first; r < last; ++r) {
      const int64_t row = (o * s.R + r) * s.C;
      if (s.columns == 1) {
        round_row<ROUNDING, false>(f, end - begin, x + row + begin, m + begin, t + begin, uint32_t(row + begin),
                                   y + row + begin);
        continue;
      }
      for (int64_t c = begin, b = begin / s.columns; c < end; c += s.columns, ++b)
        round_row<ROUNDING, true>(f, std::min(s.columns, end - c), x + row + c, m + b, t + b, uint32_t(row + c),
                                  y + row + c);
    }
  });
}

// Asks for large pages where a result is new memory: for one of 64 MB the first touch of 16,000 small pages takes three
// quarters of the whole time. Advice only; where the system has none nothing changes.
void expect_writes(void* begin, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t PAGE = 1 << 21;
  const uintptr_t first = (uintptr_t(begin) + PAGE - 1) / PAGE * PAGE, last = (uintptr_t(begin) + bytes) / PAGE * PAGE;
  if (first + 4 * PAGE <= last) madvise((void*)first, last - first, MADV_HUGEPAGE);
#endif
}

template <class In, class Out>
void round_blocks(int rounding, const Blocks& s, const Format& f, const void* x, const float* multiplier,
                  const float* step, void* y) {
  expect_writes(y, s.O * s.R * s.C * int64_t(sizeof(Out)));
  if (rounding == AWAY) round_blocks<AWAY>(s, f, (const In*)x, multiplier, step, (Out*)y);
  if (rounding == EVEN) round_blocks<EVEN>(s, f, (const In*)x, multiplier, step, (Out*)y);
  if (rounding == STOCHASTIC) round_blocks<STOCHASTIC>(s, f, (const In*)x, multiplier, step, (Out*)y);
}

}  // namespace
}  // namespace tandem

using tandem::bf16;

extern "C" void tandem_block_maxima(const int64_t* sizes, int narrow, const void* x, float* maxima) {
  const tandem::Blocks s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};
  if (narrow)
    tandem::block_maxima(s, (const bf16*)x, maxima);
  else
    tandem::block_maxima(s, (const float*)x, maxima);
}

extern "C" void tandem_round_blocks(const int64_t* numbers, float largest, int narrow_in, int narrow_out, const void* x,
                                    const float* multiplier, const float* step, void* y) {
  const tandem::Blocks s{numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]};
  const tandem::Format f{int(numbers[5]), int(numbers[6]), largest, {uint32_t(numbers[8]), uint32_t(numbers[9])}};
  const int rounding = int(numbers[7]);
  if (narrow_in && narrow_out) tandem::round_blocks<bf16, bf16>(rounding, s, f, x, multiplier, step, y);
  if (narrow_in && !narrow_out) tandem::round_blocks<bf16, float>(rounding, s, f, x, multiplier, step, y);
  if (!narrow_in && narrow_out) tandem::round_blocks<float, bf16>(rounding, s, f, x, multiplier, step, y);
  if (!narrow_in && !narrow_out) tandem::round_blocks<float, float>(rounding, s, f, x, multiplier, step, y);
}
