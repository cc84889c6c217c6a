// Losses of cells over classes and their gradient by the logits, in one pass over them (spec §5; src/ops/loss/mod.rs has
// the formulas). Class 0 is TH, P the gold classes, N the rest without TH; delta_r = l_r - l_TH.
//
//   focal:     sum over P of -(one + (1-p)^gamma) log p + logsumexp(N, TH) - l_TH, p = sigmoid(delta), one = 1 or 0
//   threshold: sum over P of logsumexp(P, TH) - l_r + logsumexp(N, TH) - l_TH
//   balanced:  log(1 + sum over P of e^-delta) + logsumexp(N, TH) - l_TH
//   ATGL:      sum over TH and P of w (logsumexp(all) - l_r), w = alpha for P, 1 for TH
//   teacher:   + weight * mean of (l - t)^2, or + weight * KL(teacher || student)
//
// Reads the logits (and the teacher's) once, f32, and the labels, a bit a class; writes the gradient, divided by the
// cells of the batch, once, as bf16. A cell whose loss is no finite number gets a gradient of NaN, so that the norm of
// all gradients says whether a step may be taken. A cell with bit 0 of its labels set is left out: no loss, gradient 0.
// A block owns the cells of `rows_a_block` rows, a warp one of them. Rows of R values start anywhere, but eight rows
// start at a sector: the block takes its rows through shared memory as one run of packs, and each warp turns its row
// there into the gradient. A lane has classes l, l + 32, ... Sums over classes are f32 over a warp; sums over cells are
// f64, rows in order in a block (`partials`), then blocks in loss_total. Nothing accumulates, nothing is recomputed.
// Launch: loss_cells 32 * rows_a_block threads, rows_a_block 8 or 16, shared memory for the rows, the teacher's rows and
// the labels; loss_total one block of 256.
#include "total.cuh"

constexpr int MAX_ROWS = 16;

enum ObjectiveKind { FOCAL, THRESHOLD, BALANCED, ATGL }; // cuda.rs has the same numbers
enum TeacherKind { MSE, KL };

struct Objective {
    int kind;
    float setting; // focal: gamma; ATGL: alpha
    float one;     // focal: 1 as released, 0 as in the paper
};

// One row, for a warp.
struct Cell {
    const float *logits;
    const float *teacher;
    const uint32_t *gold;
    int classes;

    __device__ bool is_gold(int r) const { return gold[r / 32] >> (r % 32) & 1; }
    __device__ float delta(int r, float th) const { return logits[r] - th; }

    template <typename F> __device__ float sum(F term) const {
        float sum = 0.0f;
#pragma unroll 2 // more makes little faster and the code large
        for (int r = threadIdx.x % 32; r < classes; r += 32) {
            sum += term(r);
        }
        return warp_sum(sum);
    }
    template <typename F> __device__ float largest(float least, F term) const {
#pragma unroll 2
        for (int r = threadIdx.x % 32; r < classes; r += 32) {
            least = fmaxf(least, term(r)); // passes over a NaN, which comes back in the sum of exponentials
        }
        return warp_max(least);
    }
};

// A sum of e^x, as e^top times a total of at least 1.
struct Exponentials {
    float top, log_total, inverse;

    __device__ float log_less(float x) const { return (top - x) + log_total; }
    __device__ float share(float x) const { return expf(x - top) * inverse; }
};

__device__ inline Exponentials exponentials(float top, float total) { return {top, logf(total), 1.0f / total}; }

template <typename F> __device__ inline Exponentials exponentials(const Cell &cell, F x) {
    const float top = cell.largest(-INFINITY, x);
    return exponentials(top, cell.sum([&](int r) { return expf(x(r) - top); }));
}

// 1 + the sum over P of e^(sign delta).
__device__ inline Exponentials one_and_gold(const Cell &cell, float th, float sign) {
    const auto x = [&](int r) { return cell.is_gold(r) ? sign * cell.delta(r, th) : -INFINITY; };
    const float top = cell.largest(0.0f, x);
    return exponentials(top, expf(-top) + cell.sum([&](int r) { return expf(x(r) - top); }));
}

struct Focal {
    float loss, slope;
};

// The focal loss of one gold class and its derivative by delta; log p = -softplus(-delta), without overflow.
__device__ inline Focal focal(float delta, const Objective &objective) {
    const float rest = log1pf(expf(-fabsf(delta)));
    const float log_p = fminf(delta, 0.0f) - rest, log_q = fminf(-delta, 0.0f) - rest; // q = 1 - p
    const float power = expf(objective.setting * log_q), factor = objective.one + power;
    return {-factor * log_p, -expf(log_q) * factor + objective.setting * expf(log_p) * power * log_p};
}

// What the gradients of a cell's classes have in common.
struct Slopes {
    float th;
    Exponentials low; // over N and TH; ATGL: over all
    float times;      // ATGL: the sum of all weights; else 1
    float dth;
    Exponentials high; // threshold, balanced: 1 and P
    float sign, high_times, shift;

    __device__ float of(int r, const Cell &cell, const Objective &objective) const {
        if (r == 0) {
            return dth;
        }
        const bool gold = cell.is_gold(r);
        if (objective.kind == ATGL) {
            return times * low.share(cell.logits[r]) - (gold ? objective.setting : 0.0f);
        }
        if (!gold) {
            return low.share(cell.logits[r]);
        }
        const float delta = cell.delta(r, th);
        return objective.kind == FOCAL ? focal(delta, objective).slope
                                       : high_times * high.share(sign * delta) + shift;
    }
};

// The cell's loss; fills `slopes`.
__device__ inline float cell_loss(const Cell &cell, const Objective &objective, Slopes &slopes) {
    const float th = cell.logits[0];
    const bool all = objective.kind == ATGL;
    const auto gold_sum = [&](auto term) { return cell.sum([&](int r) { return cell.is_gold(r) ? term(r) : 0.0f; }); };
    const auto low = [&](int r) { return all || !cell.is_gold(r) ? cell.logits[r] : -INFINITY; };
    slopes = {th, exponentials(cell, low), 1.0f};
    // p_TH - 1 as -(the others): it keeps its digits where p_TH is almost 1.
    const float others = cell.sum([&](int r) { return r == 0 ? 0.0f : slopes.low.share(low(r)); });
    const float positives = gold_sum([&](int) { return 1.0f; });
    slopes.dth = -others;
    const float threshold = slopes.low.log_less(th);
    switch (objective.kind) {
    case FOCAL:
        slopes.dth -= gold_sum([&](int r) { return focal(cell.delta(r, th), objective).slope; });
        return threshold + gold_sum([&](int r) { return focal(cell.delta(r, th), objective).loss; });
    case ATGL:
        slopes.times = 1.0f + objective.setting * positives;
        slopes.dth += objective.setting * positives * slopes.low.share(th);
        return threshold + objective.setting * gold_sum([&](int r) { return slopes.low.log_less(cell.logits[r]); });
    case THRESHOLD:
        slopes.sign = 1.0f, slopes.high_times = positives, slopes.shift = -1.0f;
        slopes.high = one_and_gold(cell, th, 1.0f);
        slopes.dth += positives * slopes.high.share(0.0f);
        return threshold + gold_sum([&](int r) { return slopes.high.log_less(cell.delta(r, th)); });
    default:
        slopes.sign = -1.0f, slopes.high_times = -1.0f, slopes.shift = 0.0f;
        slopes.high = one_and_gold(cell, th, -1.0f);
        slopes.dth += gold_sum([&](int r) { return slopes.high.share(-cell.delta(r, th)); });
        return threshold + slopes.high.log_less(0.0f);
    }
}

// The teacher's term and, for KL, what its gradients have in common.
struct Distilled {
    float loss;
    float pull; // MSE: 2 / classes
    Exponentials student, teacher;

    __device__ float slope(int r, const Cell &cell, int kind) const {
        const float l = cell.logits[r], t = cell.teacher[r];
        return kind == MSE ? pull * (l - t) : student.share(l) - teacher.share(t);
    }
};

__device__ inline Distilled distil(const Cell &cell, int kind) {
    if (kind == MSE) {
        const auto square = [&](int r) {
            const float difference = cell.logits[r] - cell.teacher[r];
            return difference * difference;
        };
        return {cell.sum(square) / cell.classes, 2.0f / cell.classes};
    }
    const Exponentials student = exponentials(cell, [&](int r) { return cell.logits[r]; });
    const Exponentials teacher = exponentials(cell, [&](int r) { return cell.teacher[r]; });
    const float loss = cell.sum([&](int r) {
        return teacher.share(cell.teacher[r]) * (student.log_less(cell.logits[r]) - teacher.log_less(cell.teacher[r]));
    });
    return {loss, 0.0f, student, teacher};
}

// The whole block copies `count` values. The pointers are aligned to 16 bytes.
template <typename T> __device__ inline void take(T *__restrict__ to, const T *__restrict__ from, int count) {
    constexpr int PACK = Pack<T>::COUNT;
    for (int i = threadIdx.x * PACK; i < count; i += blockDim.x * PACK) {
        if (i + PACK <= count) {
            store_pack(to + i, load_pack(from + i));
        } else {
#pragma unroll 1
            for (int j = i; j < count; j++) {
                to[j] = from[j];
            }
        }
    }
}

// The whole block writes `count` values of shared memory as bf16, four a thread.
__device__ inline void give(bf16 *to, const float *from, int count) {
    for (int i = threadIdx.x * 4; i < count; i += blockDim.x * 4) {
        if (i + 4 <= count) {
            store_four(to + i, load_pack(from + i));
        } else {
#pragma unroll 1
            for (int j = i; j < count; j++) {
                to[j] = from_float<bf16>(from[j]);
            }
        }
    }
}

// `teacher` and `dlogits` may be null. `labels`: classes / 64 rounded up words of 64 bits a row. `partials` [blocks, 2]:
// the sums of both terms. `mean`: 1 / cells.
extern "C" __global__ void __launch_bounds__(MAX_ROWS * 32)
    loss_cells(const float *__restrict__ logits, const float *__restrict__ teacher,
               const uint32_t *__restrict__ labels, bf16 *__restrict__ dlogits, double *__restrict__ partials, int rows,
               int classes, int rows_a_block, int kind, float setting, float one, int teacher_kind, float weight,
               float mean) {
    extern __shared__ __align__(16) float shared[];
    __shared__ float terms[MAX_ROWS][2];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int words = (classes + 63) / 64 * 2;
    const int first = blockIdx.x * rows_a_block;
    const int present = min(rows_a_block, rows - first), count = present * classes;
    const size_t start = static_cast<size_t>(first) * classes;
    float *l = shared, *t = shared + rows_a_block * classes;
    uint32_t *gold = reinterpret_cast<uint32_t *>(teacher == nullptr ? t : t + rows_a_block * classes);
    take(l, logits + start, count);
    take(gold, labels + static_cast<size_t>(first) * words, present * words);
    if (teacher != nullptr) {
        take(t, teacher + start, count);
    }
    __syncthreads();

    if (warp < present) {
        const Objective objective = {kind, setting, one};
        const Cell cell = {l + warp * classes, t + warp * classes, gold + warp * words, classes};
        Slopes slopes;
        Distilled distilled = {0.0f};
        const float loss = cell_loss(cell, objective, slopes);
        if (teacher != nullptr) {
            distilled = distil(cell, teacher_kind);
        }
        const float factor = isfinite(loss + distilled.loss) ? mean : NAN;
        __syncwarp(); // all lanes have read TH, which lane 0 overwrites
#pragma unroll 1
        for (int r = lane; r < classes && dlogits != nullptr; r += 32) {
            float slope = slopes.of(r, cell, objective);
            if (teacher != nullptr) {
                slope += weight * distilled.slope(r, cell, teacher_kind);
            }
            l[warp * classes + r] = slope * factor;
        }
        if (lane == 0) {
            terms[warp][0] = loss;
            terms[warp][1] = distilled.loss;
        }
        __syncwarp(); // lane 0 has written both terms
    }
    // Afterwards, although all was for nothing then: within the computation it would cost a register too many.
    const bool left_out = warp < present && gold[warp * words] & 1;
#pragma unroll 1
    for (int r = lane; left_out && r < classes; r += 32) {
        l[warp * classes + r] = 0.0f;
        if (r < 2) {
            terms[warp][r] = 0.0f;
        }
    }
    __syncthreads();

    if (dlogits != nullptr) {
        give(dlogits + start, l, count);
    }
    if (threadIdx.x < 2) {
        double sum = 0.0;
        for (int row = 0; row < present; row++) {
            sum += terms[row][threadIdx.x];
        }
        partials[blockIdx.x * 2 + threadIdx.x] = sum;
    }
}

constexpr int THREADS = 256;

// terms = mean * the sums of `partials` [blocks, 2].
extern "C" __global__ void __launch_bounds__(THREADS)
    loss_total(const double *__restrict__ partials, double *__restrict__ terms, int blocks, double mean) {
    double sum = 0.0, distilled = 0.0;
    for (int block = threadIdx.x; block < blocks; block += THREADS) {
        sum += partials[block * 2];
        distilled += partials[block * 2 + 1];
    }
    sum = block_total<THREADS, 0>(sum);
    distilled = block_total<THREADS, 1>(distilled);
    if (threadIdx.x == 0) {
        terms[0] = sum * mean;
        terms[1] = distilled * mean;
    }
}
