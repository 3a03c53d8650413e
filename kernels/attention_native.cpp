// Attention on a CPU with AVX-512: softmax(query key^T * scale) value, one pass over the keys.
//
// Lanes are queries, 64 of them a block. So scores are a product key x query^T, whose maxima and
// sums need no exchange between lanes, and channels, which are broadcast, need no padding. Both
// products are one function: rows, of keys or of channels of values, times the lanes. With AMX it
// multiplies in tiles, 32 queries a block, and pads channels to 32. In bfloat16 an instruction sums
// over two neighbours into fp32: channels for the scores, keys for the sum of values. Softmax is
// online and fp32 throughout; what leaves it is rounded to bfloat16 only as a factor of the second
// product.
//
// Online softmax: Milakov and Gimelshein (2018); blocks: Dao et al., "FlashAttention" (2022).

#include "attention_native_kinds.h"

#include <cstdlib>

namespace {

constexpr float LEAST = -1e30f;
constexpr float TOLERATED = 8.0f;  // sums are rescaled once a maximum has grown by 2 to this power

// Positions of an element: batch, head and token; channels lie side by side.
struct Tensor {
  void *data;
  int64_t batch, head, token;
};

int64_t rounded_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// The sizes of a problem, and of its packed copies in groups.
template <class Kind>
struct Sizes {
  int64_t batches, heads, key_heads, queries, keys, channels;
  int64_t channel_groups, key_blocks, value_channels;

  Sizes(const int64_t *given)
      : batches(given[0]), heads(given[1]), key_heads(given[2]), queries(given[3]), keys(given[4]),
        channels(given[5]) {
    channel_groups = rounded_up(channels, Kind::TOGETHER * Kind::GROUPS) / Kind::TOGETHER;
    key_blocks = (keys + Kind::KEYS - 1) / Kind::KEYS;
    value_channels = rounded_up(channels, Kind::ROWS);
  }
  int64_t packed_keys() const { return key_blocks * Kind::KEYS * channel_groups; }
  int64_t packed_values() const { return key_blocks * Kind::KEYS / Kind::TOGETHER * value_channels; }
};

// Keys as they lie, their channels padded to whole groups; values a block of keys at a time,
// channel by channel. What is padded is zero.
template <class Kind>
void pack(const Sizes<Kind> &sizes, const typename Kind::Element *key, int64_t key_token,
          const typename Kind::Element *value, int64_t value_token, typename Kind::Group *keys,
          typename Kind::Group *values) {
  constexpr int64_t TOGETHER = Kind::TOGETHER, ACROSS = Kind::KEYS / TOGETHER;
  for (int64_t token = 0; token < sizes.key_blocks * Kind::KEYS; ++token)
    for (int64_t group = 0; group < sizes.channel_groups; group += 16) {
      const int64_t channels = token < sizes.keys ? sizes.channels - group * TOGETHER : 0;
      const __m512i loaded =
          Kind::load(channels > 0 ? key + token * key_token + group * TOGETHER : key, channels);
      _mm512_mask_storeu_epi32(keys + token * sizes.channel_groups + group,
                               first_of(sizes.channel_groups - group), loaded);
    }
  for (int64_t token = 0; token < sizes.key_blocks * Kind::KEYS; token += 16 * TOGETHER)
    for (int64_t channel = 0; channel < sizes.channels; channel += 16) {
      __m512i rows[16];
      for (int64_t row = 0; row < 16; ++row) {
        const int64_t first = token + row * TOGETHER;
        rows[row] = Kind::load_group(value + first * value_token + channel, value_token,
                                     sizes.keys - first, sizes.channels - channel);
      }
      transpose(rows);
      auto *to = values + token / Kind::KEYS * ACROSS * sizes.value_channels +
                 token % Kind::KEYS / TOGETHER;
      for (int64_t row = 0; row < 16 && channel + row < sizes.value_channels; ++row)
        _mm512_storeu_si512(to + (channel + row) * ACROSS, rows[row]);
    }
}

// Queries, channel group by channel group; those that are missing are zero.
template <class Kind>
void pack_queries(const Sizes<Kind> &sizes, const typename Kind::Element *query, int64_t token,
                  int64_t queries, typename Kind::Group *to) {
  for (int64_t lane = 0; lane < Kind::LANES; lane += 16)
    for (int64_t group = 0; group < sizes.channel_groups; group += 16) {
      __m512i rows[16];
      for (int64_t row = 0; row < 16; ++row) {
        const int64_t channel = group * Kind::TOGETHER;
        rows[row] = lane + row < queries && channel < sizes.channels
                        ? Kind::load(query + (lane + row) * token + channel,
                                     sizes.channels - channel)
                        : _mm512_setzero_si512();
      }
      transpose(rows);
      for (int64_t row = 0; row < 16 && group + row < sizes.channel_groups; ++row)
        _mm512_storeu_si512(to + (group + row) * Kind::LANES + lane, rows[row]);
    }
}

// Sums, channel by channel, over their totals, token by token.
template <class Kind>
void unpack(const Sizes<Kind> &sizes, const float *sums, const __m512 *totals, int64_t queries,
            typename Kind::Element *result, int64_t token) {
  for (int64_t lane = 0; lane < queries; lane += 16) {
    const __m512 inverse = _mm512_div_ps(_mm512_set1_ps(1.0f), totals[lane / 16]);
    for (int64_t channel = 0; channel < sizes.channels; channel += 16) {
      __m512i rows[16];
      for (int64_t row = 0; row < 16; ++row) {
        const float *from = sums + (channel + row) * Kind::LANES + lane;
        rows[row] = channel + row < sizes.channels
                        ? _mm512_castps_si512(_mm512_mul_ps(_mm512_loadu_ps(from), inverse))
                        : _mm512_setzero_si512();
      }
      transpose(rows);
      for (int64_t row = 0; row < 16 && lane + row < queries; ++row)
        Kind::store(result + (lane + row) * token + channel, _mm512_castsi512_ps(rows[row]),
                    sizes.channels - channel);
    }
  }
}

// What one thread works in; each part begins on a cache line.
template <class Kind>
struct Workspace {
  float *scores, *sums;
  typename Kind::Group *query, *weights;
  void *memory;

  explicit Workspace(const Sizes<Kind> &sizes) {
    const int64_t parts[] = {Kind::KEYS, sizes.value_channels, sizes.channel_groups,
                             Kind::KEYS / Kind::TOGETHER};
    int64_t total = 0;
    for (int64_t part : parts) total += part * Kind::LANES * 4;
    memory = std::aligned_alloc(64, total);
    float *next = static_cast<float *>(memory);
    scores = next;
    sums = next += parts[0] * Kind::LANES;
    query = reinterpret_cast<typename Kind::Group *>(next += parts[1] * Kind::LANES);
    weights = reinterpret_cast<typename Kind::Group *>(next += parts[2] * Kind::LANES);
  }
  ~Workspace() { std::free(memory); }
  Workspace(const Workspace &) = delete;
};

// Turns a block of scores into weights, 2 to the power of what they lie above `maxima`, and adds
// them to `totals`. Where scores lie far above, the maxima are raised, and what was summed before
// is scaled to them. All lanes at once: a lane's maximum and its sum are chains of operations, and
// one chain alone would wait.
template <class Kind>
void softmax(Workspace<Kind> &work, int64_t keys, float scale, int64_t value_channels,
             __m512 *maxima, __m512 *totals) {
  constexpr int64_t LANES = Kind::LANES, COLUMNS = LANES / 16;
  const __m512 factor = _mm512_set1_ps(scale);
  __m512 most[COLUMNS];
  for (int64_t column = 0; column < COLUMNS; ++column) most[column] = maxima[column];
  for (int64_t key = 0; key < keys; ++key)
    for (int64_t column = 0; column < COLUMNS; ++column) {
      const __m512 score = _mm512_loadu_ps(work.scores + key * LANES + 16 * column);
      most[column] = _mm512_max_ps(most[column], _mm512_mul_ps(score, factor));
    }
  for (int64_t column = 0; column < COLUMNS; ++column) {
    const __m512 bound = _mm512_add_ps(maxima[column], _mm512_set1_ps(TOLERATED));
    if (!_mm512_cmp_ps_mask(most[column], bound, _CMP_GT_OQ)) continue;
    const __m512 decay = exp2_of(_mm512_sub_ps(maxima[column], most[column]), Kind::EXP2);
    totals[column] = _mm512_mul_ps(totals[column], decay);
    for (int64_t channel = 0; channel < value_channels; ++channel) {
      float *sum = work.sums + channel * LANES + 16 * column;
      _mm512_storeu_ps(sum, _mm512_mul_ps(_mm512_loadu_ps(sum), decay));
    }
    maxima[column] = most[column];
  }
  for (int64_t group = 0; group < Kind::KEYS / Kind::TOGETHER; ++group)
    for (int64_t column = 0; column < COLUMNS; ++column) {
      __m512 weights[Kind::TOGETHER];
      for (int64_t each = 0; each < Kind::TOGETHER; ++each) {
        const int64_t key = group * Kind::TOGETHER + each;
        const __m512 score = _mm512_loadu_ps(work.scores + key * LANES + 16 * column);
        weights[each] = key < keys
                            ? exp2_of(_mm512_fmsub_ps(score, factor, maxima[column]), Kind::EXP2)
                            : _mm512_setzero_ps();
        totals[column] = _mm512_add_ps(totals[column], weights[each]);
      }
      Kind::store_weights(work.weights + group * LANES + 16 * column, weights);
    }
}

// A block of queries against all keys.
template <class Kind>
void attend(const Sizes<Kind> &sizes, Workspace<Kind> &work, const typename Kind::Element *query,
            int64_t query_token, int64_t queries, const typename Kind::Group *keys,
            const typename Kind::Group *values, float scale, typename Kind::Element *result,
            int64_t result_token) {
  constexpr int64_t LANES = Kind::LANES, KEYS = Kind::KEYS, COLUMNS = LANES / 16;
  pack_queries<Kind>(sizes, query, query_token, queries, work.query);
  __m512 maxima[COLUMNS], totals[COLUMNS];
  for (int64_t column = 0; column < COLUMNS; ++column) {
    maxima[column] = _mm512_set1_ps(LEAST);
    totals[column] = _mm512_setzero_ps();
    for (int64_t channel = 0; channel < sizes.value_channels; ++channel)
      _mm512_storeu_ps(work.sums + channel * LANES + 16 * column, _mm512_setzero_ps());
  }
  for (int64_t block = 0; block < sizes.key_blocks; ++block) {
    const int64_t inside = sizes.keys - block * KEYS < KEYS ? sizes.keys - block * KEYS : KEYS;
    product<Kind>(keys + block * KEYS * sizes.channel_groups, rounded_up(inside, Kind::ROWS),
                  sizes.channel_groups, work.query, sizes.channel_groups, work.scores, false);
    softmax<Kind>(work, inside, scale, sizes.value_channels, maxima, totals);
    product<Kind>(values + block * KEYS / Kind::TOGETHER * sizes.value_channels,
                  sizes.value_channels, KEYS / Kind::TOGETHER, work.weights,
                  rounded_up(inside, Kind::TOGETHER * Kind::GROUPS) / Kind::TOGETHER, work.sums,
                  true);
  }
  unpack<Kind>(sizes, work.sums, totals, queries, result, result_token);
}

template <class Kind>
int attention(const int64_t *given, const Tensor *tensors, float scale, int threads) {
  using Element = typename Kind::Element;
  using Group = typename Kind::Group;
  const Sizes<Kind> sizes(given);
  const int64_t pairs = sizes.batches * sizes.key_heads;
  const int64_t blocks = (sizes.queries + Kind::LANES - 1) / Kind::LANES;
  const int64_t each = sizes.packed_keys() + sizes.packed_values();
  auto *packed = static_cast<Group *>(std::malloc(pairs * each * sizeof(Group)));
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
    [[maybe_unused]] const typename Kind::Scope scope;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < sizes.batches * sizes.heads * blocks; ++task) {
      const int64_t block = task % blocks, head = task / blocks % sizes.heads;
      const int64_t batch = task / blocks / sizes.heads;
      const int64_t first = block * Kind::LANES;
      const int64_t left =
          sizes.queries - first < Kind::LANES ? sizes.queries - first : Kind::LANES;
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

#ifdef __AMX_BF16__
using BFloat16 = Tiles;
#elif defined(__AVX512BF16__)
using BFloat16 = Half;
#endif

#ifdef __AVX512BF16__
extern "C" int sdaccel_attention_bfloat16(const int64_t *sizes, const Tensor *tensors, float scale,
                                          int threads) {
  return attention<BFloat16>(sizes, tensors, scale, threads);
}
#endif
