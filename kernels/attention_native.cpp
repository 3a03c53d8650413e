// Attention on a CPU with AVX-512: softmax(query key^T * scale) value, one pass over the keys.
//
// Lanes are queries, 64 of them a block. So scores are a product key x query^T, whose maxima and
// sums need no exchange between lanes, and channels, which are broadcast, need no padding. Both
// products are one micro-kernel: 4 broadcast rows times 64 lanes, 16 accumulators in registers.
// In bfloat16 VDPBF16PS takes two products a lane into fp32: neighbouring channels for the scores,
// neighbouring keys for the sum of values. Softmax is online and fp32 throughout; what leaves it
// is rounded to bfloat16 only as a factor of the second product.
//
// Online softmax: Milakov and Gimelshein (2018); blocks: Dao et al., "FlashAttention" (2022).

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int64_t LANES = 64;  // queries of a block: four registers
constexpr int64_t KEYS = 64;   // keys of a block: 16 KiB of scores stay in the first cache
constexpr int64_t ROWS = 4;    // rows of the micro-kernel
constexpr float LEAST = -1e30f;

// Positions of an element: batch, head and token; channels lie side by side.
struct Tensor {
  void *data;
  int64_t batch, head, token;
};

int64_t rounded_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// 2 to the power x for x <= 0: Taylor's series to the sixth power, 1.2e-7 from it at most.
inline __m512 exp2_of(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 part = _mm512_sub_ps(x, whole);
  __m512 y = _mm512_set1_ps(1.5403530e-4f);
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(1.3333558e-3f));
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(9.6181291e-3f));
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(5.5504109e-2f));
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(2.4022651e-1f));
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(6.9314718e-1f));
  y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(y, whole);
}

// How a dtype is multiplied: `Element` as it lies in memory, `Group` what one broadcast holds.
struct Single {
  using Element = float;
  using Group = float;
  static constexpr int64_t TOGETHER = 1;

  static __m512 broadcast(const Group *from) { return _mm512_set1_ps(*from); }
  static __m512 load(const Group *from) { return _mm512_loadu_ps(from); }
  static __m512 multiply(__m512 sum, __m512 one, __m512 other) {
    return _mm512_fmadd_ps(one, other, sum);
  }
  // The weights of 16 queries for one key.
  static void store(Group *to, const __m512 *weights) { _mm512_storeu_ps(to, weights[0]); }
  static Element round(float value) { return value; }
};

#ifdef __AVX512BF16__
struct Half {
  using Element = uint16_t;
  using Group = uint32_t;
  static constexpr int64_t TOGETHER = 2;

  static __m512 broadcast(const Group *from) {
    return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(*from)));
  }
  static __m512 load(const Group *from) { return _mm512_loadu_ps(from); }
  static __m512 multiply(__m512 sum, __m512 one, __m512 other) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh &>(one),
                            reinterpret_cast<__m512bh &>(other));
  }
  // The weights of 16 queries for two keys, those of a query side by side.
  static void store(Group *to, const __m512 *weights) {
    const __m512bh rounded = _mm512_cvtne2ps_pbh(weights[1], weights[0]);
    const __m512i order = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
        19, 3, 18, 2, 17, 1, 16, 0);
    _mm512_storeu_si512(
        to, _mm512_permutexvar_epi16(order, reinterpret_cast<const __m512i &>(rounded)));
  }
  static Element round(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (std::isnan(value)) return 0x7fc0;
    return static_cast<Element>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
};
#endif

// to[row][16 lanes * column] = sum over groups of rows[row] * lanes; added to what is there where
// `adding`: sums of blocks are summed, so that rounding doesn't grow with the number of keys. A
// group of a row lies `step` after the one before.
template <class Kind>
inline void product(const typename Kind::Group *rows, int64_t row_stride, int64_t step,
                    const typename Kind::Group *lanes, int64_t groups, float *to, bool adding) {
  __m512 sums[ROWS][4];
  for (int64_t row = 0; row < ROWS; ++row)
    for (int64_t column = 0; column < 4; ++column) sums[row][column] = _mm512_setzero_ps();
  for (int64_t group = 0; group < groups; ++group) {
    __m512 loaded[4];
    for (int64_t column = 0; column < 4; ++column)
      loaded[column] = Kind::load(lanes + group * LANES + 16 * column);
    for (int64_t row = 0; row < ROWS; ++row) {
      const __m512 one = Kind::broadcast(rows + row * row_stride + group * step);
      for (int64_t column = 0; column < 4; ++column)
        sums[row][column] = Kind::multiply(sums[row][column], one, loaded[column]);
    }
  }
  for (int64_t row = 0; row < ROWS; ++row)
    for (int64_t column = 0; column < 4; ++column) {
      float *place = to + row * LANES + 16 * column;
      const __m512 sum = sums[row][column];
      _mm512_storeu_ps(place, adding ? _mm512_add_ps(_mm512_loadu_ps(place), sum) : sum);
    }
}

// The sizes of a problem, and of its packed copies in groups.
template <class Kind>
struct Sizes {
  int64_t batches, heads, key_heads, queries, keys, channels;
  int64_t channel_groups, key_blocks, value_channels;

  Sizes(const int64_t *given)
      : batches(given[0]), heads(given[1]), key_heads(given[2]), queries(given[3]), keys(given[4]),
        channels(given[5]) {
    channel_groups = rounded_up(channels, Kind::TOGETHER) / Kind::TOGETHER;
    key_blocks = (keys + KEYS - 1) / KEYS;
    value_channels = rounded_up(channels, ROWS);
  }
  int64_t packed_keys() const { return key_blocks * KEYS * channel_groups; }
  int64_t packed_values() const { return key_blocks * KEYS / Kind::TOGETHER * value_channels; }
};

// Keys side by side, channels padded to whole groups; values in groups of neighbouring keys.
template <class Kind>
void pack(const Sizes<Kind> &sizes, const typename Kind::Element *key, int64_t key_token,
          const typename Kind::Element *value, int64_t value_token, typename Kind::Group *keys,
          typename Kind::Group *values) {
  using Element = typename Kind::Element;
  auto *key_out = reinterpret_cast<Element *>(keys);
  auto *value_out = reinterpret_cast<Element *>(values);
  const int64_t width = sizes.channel_groups * Kind::TOGETHER;
  for (int64_t token = 0; token < sizes.keys; ++token) {
    std::memcpy(key_out + token * width, key + token * key_token, sizes.channels * sizeof(Element));
    Element *to = value_out + token / Kind::TOGETHER * sizes.value_channels * Kind::TOGETHER +
                  token % Kind::TOGETHER;
    const Element *from = value + token * value_token;
    for (int64_t channel = 0; channel < sizes.channels; ++channel)
      to[channel * Kind::TOGETHER] = from[channel];
  }
}

// What one thread works in; each part begins on a cache line.
template <class Kind>
struct Workspace {
  float *scores, *sums;
  typename Kind::Group *query, *weights;
  void *memory;

  explicit Workspace(const Sizes<Kind> &sizes) {
    const int64_t parts[] = {KEYS * LANES * 4, sizes.value_channels * LANES * 4,
                             sizes.channel_groups * LANES * 4, KEYS / Kind::TOGETHER * LANES * 4};
    int64_t total = 0;
    for (int64_t part : parts) total += part;
    memory = std::aligned_alloc(64, total);
    char *next = static_cast<char *>(memory);
    scores = reinterpret_cast<float *>(next);
    sums = reinterpret_cast<float *>(next += parts[0]);
    query = reinterpret_cast<typename Kind::Group *>(next += parts[1]);
    weights = reinterpret_cast<typename Kind::Group *>(next += parts[2]);
  }
  ~Workspace() { std::free(memory); }
  Workspace(const Workspace &) = delete;
};

// Turns a block of scores into weights relative to a new maximum; returns by `totals` their sums
// and by `maxima` the maxima, and scales what was summed before to them.
template <class Kind>
void softmax(Workspace<Kind> &work, int64_t keys, float scale, int64_t value_channels,
             __m512 *maxima, __m512 *totals) {
  const __m512 factor = _mm512_set1_ps(scale);
  for (int64_t column = 0; column < 4; ++column) {
    __m512 most = _mm512_set1_ps(LEAST);
    for (int64_t key = 0; key < keys; ++key)
      most = _mm512_max_ps(most, _mm512_loadu_ps(work.scores + key * LANES + 16 * column));
    most = _mm512_max_ps(_mm512_mul_ps(most, factor), maxima[column]);
    if (_mm512_cmp_ps_mask(most, maxima[column], _CMP_NEQ_UQ)) {
      const __m512 decay = exp2_of(_mm512_sub_ps(maxima[column], most));
      totals[column] = _mm512_mul_ps(totals[column], decay);
      for (int64_t channel = 0; channel < value_channels; ++channel) {
        float *sum = work.sums + channel * LANES + 16 * column;
        _mm512_storeu_ps(sum, _mm512_mul_ps(_mm512_loadu_ps(sum), decay));
      }
      maxima[column] = most;
    }
    __m512 total = _mm512_setzero_ps();
    for (int64_t group = 0; group < KEYS / Kind::TOGETHER; ++group) {
      __m512 weights[Kind::TOGETHER];
      for (int64_t each = 0; each < Kind::TOGETHER; ++each) {
        const int64_t key = group * Kind::TOGETHER + each;
        const __m512 score = _mm512_loadu_ps(work.scores + key * LANES + 16 * column);
        weights[each] = key < keys ? exp2_of(_mm512_fmsub_ps(score, factor, most))
                                   : _mm512_setzero_ps();
        total = _mm512_add_ps(total, weights[each]);
      }
      Kind::store(work.weights + group * LANES + 16 * column, weights);
    }
    totals[column] = _mm512_add_ps(totals[column], total);
  }
}

// A block of up to 64 queries against all keys.
template <class Kind>
void attend(const Sizes<Kind> &sizes, Workspace<Kind> &work, const typename Kind::Element *query,
            int64_t query_token, int64_t queries, const typename Kind::Group *keys,
            const typename Kind::Group *values, float scale, typename Kind::Element *result,
            int64_t result_token) {
  using Element = typename Kind::Element;
  auto *packed = reinterpret_cast<Element *>(work.query);
  std::memset(work.query, 0, sizes.channel_groups * LANES * 4);
  for (int64_t lane = 0; lane < queries; ++lane)
    for (int64_t channel = 0; channel < sizes.channels; ++channel)
      packed[(channel / Kind::TOGETHER * LANES + lane) * Kind::TOGETHER + channel % Kind::TOGETHER] =
          query[lane * query_token + channel];
  std::memset(work.sums, 0, sizes.value_channels * LANES * 4);
  __m512 maxima[4], totals[4];
  for (int64_t column = 0; column < 4; ++column) {
    maxima[column] = _mm512_set1_ps(LEAST);
    totals[column] = _mm512_setzero_ps();
  }
  for (int64_t block = 0; block < sizes.key_blocks; ++block) {
    const int64_t inside = sizes.keys - block * KEYS < KEYS ? sizes.keys - block * KEYS : KEYS;
    const auto *key = keys + block * KEYS * sizes.channel_groups;
    for (int64_t row = 0; row < inside; row += ROWS)
      product<Kind>(key + row * sizes.channel_groups, sizes.channel_groups, 1, work.query,
                    sizes.channel_groups, work.scores + row * LANES, false);
    softmax<Kind>(work, inside, scale, sizes.value_channels, maxima, totals);
    const int64_t groups = (inside + Kind::TOGETHER - 1) / Kind::TOGETHER;
    const auto *value = values + block * KEYS / Kind::TOGETHER * sizes.value_channels;
    for (int64_t channel = 0; channel < sizes.value_channels; channel += ROWS)
      product<Kind>(value + channel, 1, sizes.value_channels, work.weights, groups,
                    work.sums + channel * LANES, true);
  }
  float inverse[LANES];
  for (int64_t column = 0; column < 4; ++column)
    _mm512_storeu_ps(inverse + 16 * column, _mm512_div_ps(_mm512_set1_ps(1.0f), totals[column]));
  for (int64_t lane = 0; lane < queries; ++lane)
    for (int64_t channel = 0; channel < sizes.channels; ++channel)
      result[lane * result_token + channel] =
          Kind::round(work.sums[channel * LANES + lane] * inverse[lane]);
}

template <class Kind>
int attention(const int64_t *given, const Tensor *tensors, float scale, int threads) {
  using Element = typename Kind::Element;
  using Group = typename Kind::Group;
  const Sizes<Kind> sizes(given);
  const int64_t pairs = sizes.batches * sizes.key_heads;
  const int64_t blocks = (sizes.queries + LANES - 1) / LANES;
  const int64_t each = sizes.packed_keys() + sizes.packed_values();
  auto *packed = static_cast<Group *>(std::calloc(pairs * each, sizeof(Group)));
  if (packed == nullptr) return 1;
  const auto at = [](const Tensor &tensor, int64_t batch, int64_t head) {
    return static_cast<Element *>(tensor.data) + batch * tensor.batch + head * tensor.head;
  };
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int64_t pair = 0; pair < pairs; ++pair) {
      const int64_t batch = pair / sizes.key_heads, head = pair % sizes.key_heads;
      pack<Kind>(sizes, at(tensors[1], batch, head), tensors[1].token, at(tensors[2], batch, head),
                 tensors[2].token, packed + pair * each,
                 packed + pair * each + sizes.packed_keys());
    }
    Workspace<Kind> work(sizes);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < sizes.batches * sizes.heads * blocks; ++task) {
      const int64_t block = task % blocks, head = task / blocks % sizes.heads;
      const int64_t batch = task / blocks / sizes.heads;
      const int64_t first = block * LANES;
      const int64_t left = sizes.queries - first < LANES ? sizes.queries - first : LANES;
      const Group *keys = packed + (batch * sizes.key_heads +
                                    head / (sizes.heads / sizes.key_heads)) * each;
      attend<Kind>(sizes, work, at(tensors[0], batch, head) + first * tensors[0].token,
                   tensors[0].token, left, keys, keys + sizes.packed_keys(), scale,
                   at(tensors[3], batch, head) + first * tensors[3].token, tensors[3].token);
    }
  }
  std::free(packed);
  return 0;
}

}  // namespace

// sizes: batches, heads, key heads, queries, keys (at least 1), channels. tensors: query, key,
// value, result. scale: in powers of 2. Returns 0, 1 where memory is short.
extern "C" int sdaccel_attention_float32(const int64_t *sizes, const Tensor *tensors, float scale,
                                         int threads) {
  return attention<Single>(sizes, tensors, scale, threads);
}

#ifdef __AVX512BF16__
extern "C" int sdaccel_attention_bfloat16(const int64_t *sizes, const Tensor *tensors, float scale,
                                          int threads) {
  return attention<Half>(sizes, tensors, scale, threads);
}
#endif
