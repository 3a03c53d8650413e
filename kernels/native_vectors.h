// What the C++ files of the kernels share: masks, and powers of 2 of 16 numbers.

#include <immintrin.h>

#include <cstdint>

namespace {

// A mask of the first lanes, up to 32.
inline uint32_t first_of(int64_t count) {
  return count >= 32 ? ~0u : count <= 0 ? 0u : (1u << count) - 1;
}

// 2 to the power x on [0, 1), minimax: 7.5e-8 from it at most, and 7.5e-5, a fiftieth of what
// rounding to bfloat16 takes.
constexpr float FINE[] = {1.8775764e-3f, 8.9893409e-3f, 5.5826317e-2f,
                          2.4015362e-1f, 6.9315307e-1f, 9.9999993e-1f};
constexpr float COARSE[] = {7.8024511e-2f, 2.2606717e-1f, 6.9583354e-1f, 9.9992522e-1f};

// 2 to the power x: such a polynomial for the part above the whole number below x, by Horner's rule.
template <int64_t TERMS>
inline __m512 exp2_of(__m512 x, const float (&terms)[TERMS]) {
  const __m512 part = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 y = _mm512_set1_ps(terms[0]);
  for (int64_t term = 1; term < TERMS; ++term)
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(terms[term]));
  return _mm512_scalef_ps(y, x);
}

}  // namespace
