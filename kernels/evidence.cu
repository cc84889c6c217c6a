// How the attention of a pair of entities (s, o) is spread over the sentences of its document, and a loss on it:
//
//   q[l] = scale * sum over heads of A_s[h, l] A_o[h, l],   p[sentence] = sum of q over it / (sum of q + epsilon);
//   loss = mean over pairs of the sum over sentences of v (log v - log max(p, floor)), v: gold shares;
//   slope[sentence] = weight / pairs * scale * (m - v / p) / (sum of q + epsilon), m: the sum of v where p > floor;
//   v / p is 0 at the floor, and outside of all sentences, for which each pair has one slope more;
//   dA_s[h, l] = sum over the pairs of s of slope[sentence of l] A_o[h, l] (a pair of s with itself comes twice).
//
// A, dA: f32, a block [entities, heads, tokens] a document; p, v: f32, rows of as many values as the pair's document
// has sentences; inverse: f32 [pairs], 1 / (sum of q + epsilon); slopes: f32, rows of one value more; term: one f64.
//
// forward, block (a pair): reads the rows of both entities, each once for the whole sum and once for the sentences, and
//     writes p and inverse. First every thread sums some tokens, then every warp some sentences.
// loss, one block: a warp a pair; reads p, v, inverse, writes slopes and term. A batch has some dozen pairs.
// backward, block (an entity, a head): reads the slopes of each pair of the entity and that row of the other entity,
//     writes its row of dA, zeros for an entity without a pair.
// Each value of the results has one owner, and every sum one order.
//
// Launch: 256 threads, backward 128. Rows of A start wherever the number of tokens puts them, so a warp's 128 bytes of
// it usually touch five sectors instead of four, and so do those of a sentence. p is written one value at a time and
// slopes in rows that begin anywhere: a sector a store, of 2 % of what is read.
#include "total.cuh"

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int ROW_THREADS = 128;

// What blocks work on; src/ops/evidence/cuda.rs writes these. An entity's rows of A start at heads * area.
struct alignas(16) Pair {
    int subject, object;  // areas
    int tokens;           // of the document
    int first, sentences; // the document's, in the list of all
    int row;              // its first value of p
    int unused[2];
};

struct alignas(16) Entity {
    int area;
    int token, tokens; // the document's, in the list of all
    int begin, end;    // its uses
    int unused[3];
};

struct Use {
    int slopes; // the pair's first
    int other;  // area of the other entity
};

extern "C" __global__ void __launch_bounds__(THREADS)
    evidence_forward(const float *__restrict__ attention, const Pair *__restrict__ pairs,
                     const int2 *__restrict__ sentences, float *__restrict__ p, float *__restrict__ inverse, int heads,
                     float scale, float epsilon) {
    __shared__ float sums[WARPS];
    const Pair pair = pairs[blockIdx.x];
    const float *x = attention + static_cast<size_t>(pair.subject) * heads;
    const float *y = attention + static_cast<size_t>(pair.object) * heads;
    // Over the tokens first, first + step, ..., below `end`.
    const auto sum = [&](int first, int end, int step) {
        float sum = 0.0f;
        for (int l = first; l < end; l += step) {
            for (int head = 0; head < heads; head++) {
                const size_t at = static_cast<size_t>(head) * pair.tokens + l;
                sum += x[at] * y[at];
            }
        }
        return sum;
    };
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float total = warp_sum(sum(threadIdx.x, pair.tokens, THREADS));
    if (lane == 0) {
        sums[warp] = total;
    }
    __syncthreads();
    total = warp_sum(lane < WARPS ? sums[lane] : 0.0f);
    const float factor = 1.0f / (scale * total + epsilon);
    if (threadIdx.x == 0) {
        inverse[blockIdx.x] = factor;
    }
    for (int i = warp; i < pair.sentences; i += WARPS) {
        const int2 sentence = sentences[pair.first + i];
        const float mine = warp_sum(sum(sentence.x + lane, sentence.y, 32));
        if (lane == 0) {
            p[pair.row + i] = scale * mine * factor;
        }
    }
}

// `gold`: as p. `rows` [pairs + 1]: where each row of p starts. `factor`: weight / pairs * scale. `mean`: 1 / pairs.
extern "C" __global__ void __launch_bounds__(THREADS)
    evidence_loss(const float *__restrict__ p, const float *__restrict__ inverse, const float *__restrict__ gold,
                  const int *__restrict__ rows, double *__restrict__ term, float *__restrict__ slopes, int pairs,
                  float floor, float factor, double mean) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    double sum = 0.0;
    for (int pair = warp; pair < pairs; pair += WARPS) {
        const int row = rows[pair], count = rows[pair + 1] - row;
        float reached = 0.0f;
        for (int i = lane; i < count; i += 32) {
            const float v = gold[row + i], mine = p[row + i];
            const bool low = mine <= floor; // not of a NaN
            if (v > 0.0f) {
                sum += v * (logf(v) - logf(low ? floor : mine));
            }
            reached += low ? 0.0f : v;
        }
        reached = warp_sum(reached);
        for (int i = lane; i <= count; i += 32) {
            const bool low = i == count || p[row + i] <= floor;
            slopes[row + pair + i] = factor * inverse[pair] * (reached - (low ? 0.0f : gold[row + i] / p[row + i]));
        }
    }
    sum = block_total<THREADS>(sum);
    if (threadIdx.x == 0) {
        *term = sum * mean;
    }
}

// `sentence_of`: of each token its sentence, or their count.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    evidence_backward(const float *__restrict__ attention, const float *__restrict__ slopes,
                      const Entity *__restrict__ entities, const Use *__restrict__ uses,
                      const int *__restrict__ sentence_of, float *__restrict__ da, int heads) {
    const Entity entity = entities[blockIdx.x];
    const auto row = [&](int area) {
        return static_cast<size_t>(area) * heads + static_cast<size_t>(blockIdx.y) * entity.tokens;
    };
    for (int l = threadIdx.x; l < entity.tokens; l += ROW_THREADS) {
        const int sentence = sentence_of[entity.token + l];
        float sum = 0.0f;
        for (int i = entity.begin; i < entity.end; i++) {
            const Use use = uses[i];
            sum += slopes[use.slopes + sentence] * attention[row(use.other) + l];
        }
        da[row(entity.area) + l] = sum;
    }
}
