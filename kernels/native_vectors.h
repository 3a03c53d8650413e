// What the C++ files of the kernels share: masks, and powers of 2 of 16 numbers.

#include <immintrin.h>

#include <cstdint>

namespace {

// A mask of the first lanes, up to 32.
inline uint32_t first_of(int64_t count) {
  return count >= 32 ? ~0u : count <= 0 ? 0u : (1u << count) - 1;
}

// 2 to the power x: a polynomial for the part above the whole number below x, by Horner's rule.
template <int64_t TERMS>
inline __m512 exp2_of(__m512 x, const float (&terms)[TERMS]) {
  const __m512 part = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 y = _mm512_set1_ps(terms[0]);
  for (int64_t term = 1; term < TERMS; ++term)
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(terms[term]));
  return _mm512_scalef_ps(y, x);
}

}  // namespace
