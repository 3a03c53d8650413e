// GroupNorm and SiLU on a CPU with AVX-512: two reads and one write of a feature map.
//
// Statistics first: by channel the sum of what lies above the map's first pixel there, and of its
// square, so that a mean far from zero takes no digits. They are summed in fp32 over 64 pixels, then
// in fp64 over a span, then over spans whose number doesn't depend on the threads. From these a
// centre, a multiplier and a bias for each channel; then y = (x - centre) * multiplier + bias, and
// y / (1 + exp(-y)) while it is in registers.

#include "native_vectors.h"

#include <omp.h>

#include <cmath>
#include <cstdlib>

namespace {

constexpr int64_t LANES = 16;
constexpr int64_t TOGETHER = 64;  // pixels whose sums are fp32
constexpr int64_t SPANS = 64;     // at most, and of at least SHORTEST pixels
constexpr int64_t SHORTEST = 256;

// How 16 numbers are loaded as fp32, and stored; PRECISE tells how exact a sigmoid has to be.
struct Float32 {
  using Element = float;
  static constexpr bool PRECISE = true;
  static __m512 load(const Element *from, uint32_t mask) {
    return _mm512_maskz_loadu_ps(mask, from);
  }
  static void store(Element *to, uint32_t mask, __m512 values) {
    _mm512_mask_storeu_ps(to, mask, values);
  }
};

struct BFloat16 {
  using Element = uint16_t;
  static constexpr bool PRECISE = false;
  static __m512 load(const Element *from, uint32_t mask) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  // To the nearest, and to the even one of two; what is no number stays none.
  static void store(Element *to, uint32_t mask, __m512 values) {
    const __m512i bits = _mm512_castps_si512(values);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, up), 16);
    const __mmask16 none = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_mov_epi32(rounded, none, _mm512_set1_epi32(0x7fc0));
    _mm256_mask_storeu_epi16(to, mask, _mm512_cvtepi32_epi16(kept));
  }
};

struct Float16 {
  using Element = uint16_t;
  static constexpr bool PRECISE = false;
  static __m512 load(const Element *from, uint32_t mask) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from));
  }
  static void store(Element *to, uint32_t mask, __m512 values) {
    const int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    _mm256_mask_storeu_epi16(to, mask, _mm512_cvtps_ph(values, nearest));
  }
};

// y / (1 + exp(-y)). In 16 bit exp is within 7.5e-5, and the reciprocal within 6.2e-5.
template <class Kind>
inline __m512 silu(__m512 y) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 power = _mm512_mul_ps(y, _mm512_set1_ps(-1.44269504f));
  if constexpr (Kind::PRECISE) return _mm512_div_ps(y, _mm512_add_ps(one, exp2_of(power, FINE)));
  return _mm512_mul_ps(y, _mm512_rcp14_ps(_mm512_add_ps(one, exp2_of(power, COARSE))));
}

struct Sizes {
  int64_t samples, channels, pixels, groups;
  bool last, silu;                 // channels-last; SiLU is wanted
  bool single_affine, single_add;  // fp32, whatever the map is
  int64_t spans, span, padded;     // spans of a sample, pixels of a span, channels in whole lanes

  explicit Sizes(const int64_t *given)
      : samples(given[0]), channels(given[1]), pixels(given[2]), groups(given[3]),
        last(given[4]), silu(given[5]), single_affine(given[6]), single_add(given[7]) {
    const int64_t wanted = last ? (pixels + SHORTEST - 1) / SHORTEST : 1;
    spans = wanted < SPANS ? wanted : SPANS;
    span = (pixels + spans - 1) / spans;
    padded = (channels + LANES - 1) / LANES * LANES;
  }
};

// All by sample and channel; sums and squares by sample, span and channel.
struct Statistics {
  float *first, *centre, *multiplier, *bias;
  double *sums, *squares;
  void *memory;

  explicit Statistics(const Sizes &sizes) {
    const int64_t each = sizes.samples * sizes.padded, spread = each * sizes.spans;
    memory = std::aligned_alloc(64, 4 * each * sizeof(float) + 2 * spread * sizeof(double));
    sums = static_cast<double *>(memory);
    squares = sums + spread;
    first = reinterpret_cast<float *>(squares + spread);
    centre = first + each;
    multiplier = centre + each;
    bias = multiplier + each;
  }
  ~Statistics() { std::free(memory); }
  Statistics(const Statistics &) = delete;
};

template <class Kind>
float number(const void *values, int64_t place, bool single, float otherwise) {
  if (values == nullptr) return otherwise;
  if (single) return static_cast<const float *>(values)[place];
  alignas(64) float loaded[LANES];
  _mm512_store_ps(loaded, Kind::load(static_cast<const typename Kind::Element *>(values) + place, 1));
  return loaded[0];
}

inline void add_to(double *to, __m512 values) {
  const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(values));
  const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(values, 1));
  _mm512_storeu_pd(to, _mm512_add_pd(_mm512_loadu_pd(to), low));
  _mm512_storeu_pd(to + 8, _mm512_add_pd(_mm512_loadu_pd(to + 8), high));
}

// Sums over `pixels` of a channels-last map. `work` is two rows of padded channels.
template <class Kind>
void sum_pixels(const Sizes &sizes, const typename Kind::Element *x, int64_t pixels,
                const float *first, float *work, double *sums, double *squares) {
  float *sum = work, *square = work + sizes.padded;
  for (int64_t channel = 0; channel < sizes.padded; ++channel) sums[channel] = squares[channel] = 0;
  for (int64_t from = 0; from < pixels; from += TOGETHER) {
    const int64_t until = from + TOGETHER < pixels ? from + TOGETHER : pixels;
    for (int64_t channel = 0; channel < sizes.padded; ++channel) sum[channel] = square[channel] = 0;
    // Eight pixels a time, so that sums are loaded and stored an eighth as often.
    for (int64_t pixel = from; pixel < until; pixel += 8)
      for (int64_t channel = 0; channel < sizes.channels; channel += LANES) {
        const uint32_t mask = first_of(sizes.channels - channel);
        const __m512 origin = _mm512_loadu_ps(first + channel);
        __m512 total = _mm512_loadu_ps(sum + channel), power = _mm512_loadu_ps(square + channel);
        for (int64_t each = pixel; each < pixel + 8 && each < until; ++each) {
          const __m512 above =
              _mm512_sub_ps(Kind::load(x + each * sizes.channels + channel, mask), origin);
          total = _mm512_add_ps(total, above);
          power = _mm512_fmadd_ps(above, above, power);
        }
        _mm512_storeu_ps(sum + channel, total);
        _mm512_storeu_ps(square + channel, power);
      }
    for (int64_t channel = 0; channel < sizes.padded; channel += LANES) {
      add_to(sums + channel, _mm512_loadu_ps(sum + channel));
      add_to(squares + channel, _mm512_loadu_ps(square + channel));
    }
  }
}

// Sums over a channel that lies by itself.
template <class Kind>
void sum_plane(const typename Kind::Element *x, int64_t pixels, float first, double *sum,
               double *square) {
  const __m512 origin = _mm512_set1_ps(first);
  *sum = *square = 0;
  for (int64_t from = 0; from < pixels; from += TOGETHER * LANES) {
    __m512 total = _mm512_setzero_ps(), power = _mm512_setzero_ps();
    for (int64_t pixel = from; pixel < from + TOGETHER * LANES && pixel < pixels; pixel += LANES) {
      const uint32_t mask = first_of(pixels - pixel);
      const __m512 above = _mm512_maskz_sub_ps(mask, Kind::load(x + pixel, mask), origin);
      total = _mm512_add_ps(total, above);
      power = _mm512_fmadd_ps(above, above, power);
    }
    *sum += _mm512_reduce_add_ps(total);
    *square += _mm512_reduce_add_ps(power);
  }
}

// A group's centre, multiplier and bias, by channel (Chan, Golub and LeVeque, 1979).
template <class Kind>
void finish_group(const Sizes &sizes, const Statistics &found, const void *const *tensors,
                  int64_t sample, int64_t group, float eps) {
  const int64_t width = sizes.channels / sizes.groups, begin = group * width;
  const int64_t row = sample * sizes.padded;
  const double count = static_cast<double>(sizes.pixels);
  const auto added = [&](int64_t channel) {
    return number<Kind>(tensors[3], sample * sizes.channels + channel, sizes.single_add, 0.0f);
  };
  const auto total = [&](const double *of, int64_t channel) {
    double sum = 0;
    for (int64_t span = 0; span < sizes.spans; ++span)
      sum += of[(sample * sizes.spans + span) * sizes.padded + channel];
    return sum;
  };
  double mean = 0, squares = 0;
  for (int64_t channel = begin; channel < begin + width; ++channel) {
    const double sum = total(found.sums, channel);
    const double own = found.first[row + channel] + sum / count + added(channel);
    const double before = static_cast<double>(channel - begin), apart = own - mean;
    squares += total(found.squares, channel) - sum * sum / count;
    squares += apart * apart * count * before / (before + 1);
    mean += apart / (before + 1);
  }
  const double variance = (squares < 0 ? 0 : squares) / (count * static_cast<double>(width));
  const double deviation = std::sqrt(variance + eps);
  for (int64_t channel = begin; channel < begin + width; ++channel) {
    const double centre = mean - added(channel);
    const double weight = number<Kind>(tensors[1], channel, sizes.single_affine, 1.0f) / deviation;
    const float near = static_cast<float>(centre);
    const float given = number<Kind>(tensors[2], channel, sizes.single_affine, 0.0f);
    found.centre[row + channel] = near;
    found.multiplier[row + channel] = static_cast<float>(weight);
    // What fp32 cuts off the centre, the bias makes good.
    found.bias[row + channel] = static_cast<float>(given + (near - centre) * weight);
  }
}

template <class Kind, bool SILU>
inline void apply(const typename Kind::Element *x, typename Kind::Element *y, uint32_t mask,
                  __m512 centre, __m512 multiplier, __m512 bias) {
  const __m512 above = _mm512_sub_ps(Kind::load(x, mask), centre);
  const __m512 normed = _mm512_fmadd_ps(above, multiplier, bias);
  Kind::store(y, mask, SILU ? silu<Kind>(normed) : normed);
}

template <class Kind, bool SILU>
void apply_all(const Sizes &sizes, const Statistics &found, const typename Kind::Element *x,
               typename Kind::Element *y) {
  if (sizes.last) {
#pragma omp for schedule(static)
    for (int64_t pixel = 0; pixel < sizes.samples * sizes.pixels; ++pixel) {
      const int64_t row = pixel / sizes.pixels * sizes.padded, place = pixel * sizes.channels;
      for (int64_t channel = 0; channel < sizes.channels; channel += LANES)
        apply<Kind, SILU>(x + place + channel, y + place + channel,
                          first_of(sizes.channels - channel),
                          _mm512_loadu_ps(found.centre + row + channel),
                          _mm512_loadu_ps(found.multiplier + row + channel),
                          _mm512_loadu_ps(found.bias + row + channel));
    }
    return;
  }
#pragma omp for schedule(static)
  for (int64_t plane = 0; plane < sizes.samples * sizes.channels; ++plane) {
    const int64_t row = plane / sizes.channels * sizes.padded + plane % sizes.channels;
    const __m512 centre = _mm512_set1_ps(found.centre[row]);
    const __m512 multiplier = _mm512_set1_ps(found.multiplier[row]);
    const __m512 bias = _mm512_set1_ps(found.bias[row]);
    for (int64_t pixel = 0; pixel < sizes.pixels; pixel += LANES)
      apply<Kind, SILU>(x + plane * sizes.pixels + pixel, y + plane * sizes.pixels + pixel,
                        first_of(sizes.pixels - pixel), centre, multiplier, bias);
  }
}

template <class Kind>
void measure(const Sizes &sizes, const Statistics &found, const typename Kind::Element *x,
             float *work) {
  if (sizes.last) {
#pragma omp for schedule(static)
    for (int64_t task = 0; task < sizes.samples * sizes.spans; ++task) {
      const int64_t begin = task % sizes.spans * sizes.span;
      const int64_t left = sizes.pixels - begin;
      const int64_t pixel = task / sizes.spans * sizes.pixels + begin;
      sum_pixels<Kind>(sizes, x + pixel * sizes.channels, left < sizes.span ? left : sizes.span,
                       found.first + task / sizes.spans * sizes.padded, work,
                       found.sums + task * sizes.padded, found.squares + task * sizes.padded);
    }
    return;
  }
#pragma omp for schedule(static)
  for (int64_t plane = 0; plane < sizes.samples * sizes.channels; ++plane) {
    const int64_t row = plane / sizes.channels * sizes.padded + plane % sizes.channels;
    sum_plane<Kind>(x + plane * sizes.pixels, sizes.pixels, found.first[row], found.sums + row,
                    found.squares + row);
  }
}

template <class Kind>
int group_norm(const int64_t *given, void *const *tensors, float eps, int threads) {
  using Element = typename Kind::Element;
  const Sizes sizes(given);
  const Statistics found(sizes);
  auto *work = static_cast<float *>(std::malloc(threads * 2 * sizes.padded * sizeof(float)));
  if (found.memory == nullptr || work == nullptr) {
    std::free(work);
    return 1;
  }
  const auto *x = static_cast<const Element *>(tensors[0]);
  auto *y = static_cast<Element *>(tensors[4]);
  for (int64_t sample = 0; sample < sizes.samples; ++sample)
    for (int64_t channel = 0; channel < sizes.padded; ++channel) {
      const int64_t place = sizes.last ? channel : channel * sizes.pixels;
      const int64_t start = sample * sizes.channels * sizes.pixels;
      found.first[sample * sizes.padded + channel] =
          channel < sizes.channels ? number<Kind>(x, start + place, Kind::PRECISE, 0.0f) : 0.0f;
    }
#pragma omp parallel num_threads(threads)
  {
    measure<Kind>(sizes, found, x, work + omp_get_thread_num() * 2 * sizes.padded);
#pragma omp for schedule(static)
    for (int64_t task = 0; task < sizes.samples * sizes.groups; ++task)
      finish_group<Kind>(sizes, found, tensors, task / sizes.groups, task % sizes.groups, eps);
    if (sizes.silu)
      apply_all<Kind, true>(sizes, found, x, y);
    else
      apply_all<Kind, false>(sizes, found, x, y);
  }
  std::free(work);
  return 0;
}

}  // namespace

// sizes: samples, channels, pixels, groups, whether channels-last, whether SiLU, whether weight and
// bias are fp32, whether add is. tensors: x, weight, bias and add or null, y. Returns 0, 1 where
// memory is short.
extern "C" int sdaccel_group_norm_float32(const int64_t *sizes, void *const *tensors, float eps,
                                          int threads) {
  return group_norm<Float32>(sizes, tensors, eps, threads);
}

extern "C" int sdaccel_group_norm_bfloat16(const int64_t *sizes, void *const *tensors, float eps,
                                           int threads) {
  return group_norm<BFloat16>(sizes, tensors, eps, threads);
}

extern "C" int sdaccel_group_norm_float16(const int64_t *sizes, void *const *tensors, float eps,
                                          int threads) {
  return group_norm<Float16>(sizes, tensors, eps, threads);
}
