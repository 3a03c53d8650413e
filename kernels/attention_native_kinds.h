// What `attention_native.cpp` multiplies with: fp32 and bfloat16 in AVX-512 registers, bfloat16 in
// AMX's tiles. A kind is a class of constants and of a few functions:
//
// Element is a number as it lies in memory, Group what one 32-bit lane holds: TOGETHER elements.
// A block has LANES queries and KEYS keys; rows and groups come in whole numbers of ROWS and GROUPS.
// EXP2 is the polynomial of `exp2_of`, Scope what a thread holds while it multiplies.

#include "native_vectors.h"

#include <atomic>

namespace {

// 16 rows of 16 lanes become 16 columns: pairs, then fours of lanes, then quarters of registers.
inline void transpose(__m512i (&rows)[16]) {
  __m512i pairs[16], fours[16];
  for (int64_t row = 0; row < 16; row += 2) {
    pairs[row] = _mm512_unpacklo_epi32(rows[row], rows[row + 1]);
    pairs[row + 1] = _mm512_unpackhi_epi32(rows[row], rows[row + 1]);
  }
  for (int64_t row = 0; row < 16; row += 4)
    for (int64_t half = 0; half < 2; ++half) {
      const __m512i upper = pairs[row + half], lower = pairs[row + 2 + half];
      fours[row + 2 * half] = _mm512_unpacklo_epi64(upper, lower);
      fours[row + 2 * half + 1] = _mm512_unpackhi_epi64(upper, lower);
    }
  for (int64_t place = 0; place < 4; ++place) {
    const __m512i *of = fours + place;
    const __m512i even = _mm512_shuffle_i32x4(of[0], of[4], 0x88);
    const __m512i odd = _mm512_shuffle_i32x4(of[0], of[4], 0xdd);
    const __m512i more_even = _mm512_shuffle_i32x4(of[8], of[12], 0x88);
    const __m512i more_odd = _mm512_shuffle_i32x4(of[8], of[12], 0xdd);
    rows[place] = _mm512_shuffle_i32x4(even, more_even, 0x88);
    rows[place + 4] = _mm512_shuffle_i32x4(odd, more_odd, 0x88);
    rows[place + 8] = _mm512_shuffle_i32x4(even, more_even, 0xdd);
    rows[place + 12] = _mm512_shuffle_i32x4(odd, more_odd, 0xdd);
  }
}

struct Single {
  using Element = float;
  using Group = float;
  static constexpr int64_t TOGETHER = 1, LANES = 64, KEYS = 64, ROWS = 4, GROUPS = 1;
  static constexpr auto &EXP2 = FINE;
  struct Scope {};

  static __m512 broadcast(const Group *from) { return _mm512_set1_ps(*from); }
  static __m512 multiply(__m512 sum, __m512 one, __m512 other) {
    return _mm512_fmadd_ps(one, other, sum);
  }
  // The weights of 16 queries for one key.
  static void store_weights(Group *to, const __m512 *weights) { _mm512_storeu_ps(to, weights[0]); }
  // 16 groups of a token, of which it has `count` elements; the others are zero.
  static __m512i load(const Element *from, int64_t count) {
    return _mm512_maskz_loadu_epi32(first_of(count), from);
  }
  // 16 channels of the `tokens` that make a group, channel by channel.
  static __m512i load_group(const Element *from, int64_t, int64_t tokens, int64_t count) {
    return tokens > 0 ? load(from, count) : _mm512_setzero_si512();
  }
  static void store(Element *to, __m512 values, int64_t count) {
    _mm512_mask_storeu_ps(to, first_of(count), values);
  }
};

#ifdef __AVX512BF16__
struct Half {
  using Element = uint16_t;
  using Group = uint32_t;
  static constexpr int64_t TOGETHER = 2, LANES = 64, KEYS = 64, ROWS = 4, GROUPS = 1;
  static constexpr auto &EXP2 = COARSE;
  struct Scope {};

  static __m512 broadcast(const Group *from) {
    return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(*from)));
  }
  static __m512 multiply(__m512 sum, __m512 one, __m512 other) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh &>(one),
                            reinterpret_cast<__m512bh &>(other));
  }
  // The weights of 16 queries for two keys, those of a query side by side.
  static void store_weights(Group *to, const __m512 *weights) {
    const __m512bh rounded = _mm512_cvtne2ps_pbh(weights[1], weights[0]);
    const __m512i order = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
        19, 3, 18, 2, 17, 1, 16, 0);
    _mm512_storeu_si512(
        to, _mm512_permutexvar_epi16(order, reinterpret_cast<const __m512i &>(rounded)));
  }
  static __m512i load(const Element *from, int64_t count) {
    return _mm512_maskz_loadu_epi16(first_of(count), from);
  }
  static __m512i load_group(const Element *from, int64_t token, int64_t tokens, int64_t count) {
    const auto channels = [&](int64_t each) {
      const __mmask16 there = each < tokens ? first_of(count) : 0;
      return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, from + each * token));
    };
    return _mm512_or_si512(channels(0), _mm512_slli_epi32(channels(1), 16));
  }
  static void store(Element *to, __m512 values, int64_t count) {
    const __m256bh rounded = _mm512_cvtneps_pbh(values);
    _mm256_mask_storeu_epi16(to, first_of(count), reinterpret_cast<const __m256i &>(rounded));
  }
};
#endif

// to[row][lane] = sum over groups of rows[row] * lanes, added to what is there where `adding`: sums
// of blocks are summed, so that rounding doesn't grow with the number of keys. In registers: four
// rows, each group of them broadcast, times all lanes.
template <class Kind>
void product(const typename Kind::Group *rows, int64_t count, int64_t row_stride,
             const typename Kind::Group *lanes, int64_t groups, float *to, bool adding) {
  constexpr int64_t COLUMNS = Kind::LANES / 16;
  for (int64_t first = 0; first < count; first += Kind::ROWS) {
    __m512 sums[Kind::ROWS][COLUMNS];
    for (int64_t row = 0; row < Kind::ROWS; ++row)
      for (int64_t column = 0; column < COLUMNS; ++column)
        sums[row][column] = _mm512_setzero_ps();
    for (int64_t group = 0; group < groups; ++group) {
      __m512 loaded[COLUMNS];
      for (int64_t column = 0; column < COLUMNS; ++column)
        loaded[column] = _mm512_loadu_ps(lanes + group * Kind::LANES + 16 * column);
      for (int64_t row = 0; row < Kind::ROWS; ++row) {
        const __m512 one = Kind::broadcast(rows + (first + row) * row_stride + group);
        for (int64_t column = 0; column < COLUMNS; ++column)
          sums[row][column] = Kind::multiply(sums[row][column], one, loaded[column]);
      }
    }
    for (int64_t row = 0; row < Kind::ROWS; ++row)
      for (int64_t column = 0; column < COLUMNS; ++column) {
        float *place = to + (first + row) * Kind::LANES + 16 * column;
        const __m512 sum = sums[row][column];
        _mm512_storeu_ps(place, adding ? _mm512_add_ps(_mm512_loadu_ps(place), sum) : sum);
      }
  }
}

#ifdef __AMX_BF16__
struct Tiles : Half {
  // Half as many lanes: scores, weights and sums of SD1.5's 40 channels then fit the first cache.
  static constexpr int64_t LANES = 32, ROWS = 16, GROUPS = 16;

  // A thread's eight tiles of 16 rows of 64 bytes, given back at the end. Whoever multiplies in
  // tiles next configures them anew.
  struct alignas(64) Configuration {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  struct Scope {
    Scope() {
      static constexpr Configuration configuration;
      _tile_loadconfig(&configuration);
    }
    ~Scope() { _tile_release(); }
    Scope(const Scope &) = delete;
  };
};

// Two tiles of rows times two of lanes, so that each that is loaded serves twice. gcc doesn't know
// that tiles are memory: the fences keep what is written before before, and what is read after after.
template <>
void product<Tiles>(const uint32_t *rows, int64_t count, int64_t row_stride, const uint32_t *lanes,
                    int64_t groups, float *to, bool adding) {
  constexpr int64_t APART = Tiles::LANES * 4;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  for (int64_t row = 0; row < count; row += 32) {
    const bool two = row + 16 < count;
    float *upper = to + row * Tiles::LANES, *lower = upper + 16 * Tiles::LANES;
    if (adding) {
      _tile_loadd(0, upper, APART);
      _tile_loadd(1, upper + 16, APART);
      if (two) _tile_loadd(2, lower, APART);
      if (two) _tile_loadd(3, lower + 16, APART);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int64_t group = 0; group < groups; group += 16) {
      const uint32_t *row_tile = rows + row * row_stride + group;
      _tile_loadd(6, lanes + group * Tiles::LANES, APART);
      _tile_loadd(7, lanes + group * Tiles::LANES + 16, APART);
      _tile_loadd(4, row_tile, row_stride * 4);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      if (!two) continue;
      _tile_loadd(5, row_tile + 16 * row_stride, row_stride * 4);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, upper, APART);
    _tile_stored(1, upper + 16, APART);
    if (two) _tile_stored(2, lower, APART);
    if (two) _tile_stored(3, lower + 16, APART);
  }
  std::atomic_signal_fence(std::memory_order_seq_cst);
}
#endif

}  // namespace
