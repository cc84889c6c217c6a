//! The planted bugs. None is equivalent: each changes what some launch of its sample does.

pub struct Mutant {
    pub name: &'static str,
    /// In softgpu/samples.
    pub file: &'static str,
    /// Occurs exactly once in the file.
    pub find: &'static str,
    pub replace: &'static str,
    /// The sample of the example program that should notice.
    pub sample: &'static str,
}

impl Mutant {
    /// The source that has the sample's kernel.
    pub fn image(&self) -> &'static str {
        match self.file.strip_suffix(".cu") {
            Some(name) => name,
            // A header: by the kernel.
            None => self.sample.split('_').next().unwrap_or_default(),
        }
    }
}

const fn mutant(
    name: &'static str,
    file: &'static str,
    sample: &'static str,
    find: &'static str,
    replace: &'static str,
) -> Mutant {
    Mutant { name, file, find, replace, sample }
}

pub const MUTANTS: &[Mutant] = &[
    // ---- GEMM: the ring of stages
    mutant(
        "gemm_missing_barrier",
        "gemm.cu",
        "gemm_nt",
        "__syncthreads(); // this stage is here for all; and all have left the stage that is filled next",
        "",
    ),
    mutant(
        "gemm_lax_wait_group",
        "gemm.cu",
        "gemm_nt",
        "copy_async_wait<STAGES - 2>();",
        "copy_async_wait<STAGES - 1>();",
    ),
    mutant("gemm_no_wait_group", "gemm.cu", "gemm_nn", "copy_async_wait<STAGES - 2>();", ""),
    mutant(
        "gemm_wait_after_barrier",
        "gemm.cu",
        "gemm_nt",
        "        copy_async_wait<STAGES - 2>();
        __syncthreads(); // this stage is here for all; and all have left the stage that is filled next
",
        "        __syncthreads();
        copy_async_wait<STAGES - 2>();
",
    ),
    mutant(
        "gemm_refill_of_stage_in_use",
        "gemm.cu",
        "gemm_nt",
        "const int ahead = step + STAGES - 1;",
        "const int ahead = step + STAGES;",
    ),
    mutant(
        "gemm_no_empty_group",
        "gemm.cu",
        "gemm_nt",
        "        }
        copy_async_commit(); // an empty group too, so that the count of groups is that of steps
",
        "            copy_async_commit();
        }
",
    ),
    mutant("gemm_short_prologue", "gemm.cu", "gemm_nt", "step < STAGES - 1; step++", "step < STAGES - 2; step++"),
    mutant(
        "gemm_fifth_stage_of_four",
        "gemm.cu",
        "gemm_nt",
        "shared + ahead % STAGES * STAGE_VALUES",
        "shared + ahead % (STAGES + 1) * STAGE_VALUES",
    ),
    mutant(
        "gemm_wrong_stage_read",
        "gemm.cu",
        "gemm_nt",
        "shared + step % STAGES * STAGE_VALUES",
        "shared + (step + 1) % STAGES * STAGE_VALUES",
    ),
    mutant("gemm_last_step_left_out", "gemm.cu", "gemm_nt", "step < steps; step++", "step < steps - 1; step++"),
    mutant("gemm_steps_rounded_down", "gemm.cu", "gemm_nt", "(k + TILE_K - 1) / TILE_K", "k / TILE_K"),
    // ---- GEMM: edges
    mutant(
        "gemm_no_row_guard_on_load",
        "gemm.cu",
        "gemm_nt",
        "row0 + row < rows && column0 + chunk * 8 < columns",
        "column0 + chunk * 8 < columns",
    ),
    mutant(
        "gemm_no_column_guard_on_load",
        "gemm.cu",
        "gemm_nt",
        "row0 + row < rows && column0 + chunk * 8 < columns",
        "row0 + row < rows",
    ),
    mutant("gemm_no_row_guard_on_store", "gemm.cu", "gemm_nt", "row < m && column < n", "column < n"),
    mutant("gemm_no_column_guard_on_store", "gemm.cu", "gemm_nn", "row < m && column < n", "row < m"),
    mutant("gemm_guard_off_by_one", "gemm.cu", "gemm_nn", "row < m && column < n", "row <= m && column < n"),
    mutant("gemm_no_zero_fill", "common.cuh", "gemm_nt", "\"r\"(inside ? 16 : 0)", "\"r\"(16)"),
    mutant(
        "gemm_misaligned_copy",
        "gemm.cu",
        "gemm_nt",
        "* columns + column0 + chunk * 8;",
        "* columns + column0 + chunk * 8 - (row > 0);",
    ),
    // ---- GEMM: fragments and layouts
    mutant(
        "gemm_swapped_b_registers",
        "gemm.cu",
        "gemm_nt",
        "b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]",
        "b[j / 2][j % 2 * 2 + 1], b[j / 2][j % 2 * 2]",
    ),
    mutant(
        "gemm_swapped_a_registers",
        "common.cuh",
        "gemm_nt",
        "\"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3])",
        "\"r\"(a[0]), \"r\"(a[2]), \"r\"(a[1]), \"r\"(a[3])",
    ),
    mutant(
        "gemm_swapped_sums",
        "common.cuh",
        "gemm_nn",
        "\"+f\"(c[0]), \"+f\"(c[1]), \"+f\"(c[2]), \"+f\"(c[3])",
        "\"+f\"(c[0]), \"+f\"(c[1]), \"+f\"(c[3]), \"+f\"(c[2])",
    ),
    mutant("gemm_no_trans", "gemm.cu", "gemm_nn", "load_matrix_x4_trans(fragment", "load_matrix_x4(fragment"),
    mutant(
        "gemm_no_swizzle_on_read",
        "gemm.cu",
        "gemm_nt",
        "stage + swizzle<TILE_K>(warp_row + i * 16 + lane % 16, depth / 8 + lane / 16)",
        "stage + (warp_row + i * 16 + lane % 16) * TILE_K + (depth / 8 + lane / 16) * 8",
    ),
    mutant(
        "gemm_no_swizzle_on_write",
        "gemm.cu",
        "gemm_nn",
        "tile + swizzle<WIDTH>(row, chunk)",
        "tile + row * WIDTH + chunk * 8",
    ),
    mutant(
        "gemm_half_of_the_rows",
        "gemm.cu",
        "gemm_nt",
        "row0 + i * 16 + half * 8 + lane / 4",
        "row0 + i * 16 + lane / 4",
    ),
    mutant(
        "gemm_wrong_row_stride",
        "gemm.cu",
        "gemm_nt",
        "static_cast<size_t>(row) * n",
        "static_cast<size_t>(row) * m",
    ),
    mutant("gemm_sums_uninitialised", "gemm.cu", "gemm_nt", "float sums[4][4][4] = {};", "float sums[4][4][4];"),
    // ---- GEMM: launch
    mutant("gemm_wrong_block_index", "gemm.cu", "gemm_nt", "blockIdx.y * TILE_M, depth", "blockIdx.x * TILE_M, depth"),
    mutant("gemm_too_many_threads_expected", "gemm.cu", "gemm_nt", "THREADS = 256", "THREADS = 512"),
    mutant(
        "gemm_launch_bounds_too_small",
        "gemm.cu",
        "gemm_nn",
        "__launch_bounds__(THREADS)
    gemm_nn",
        "__launch_bounds__(THREADS / 2)
    gemm_nn",
    ),
    // ---- attention
    mutant(
        "attention_missing_barrier",
        "attention.cu",
        "attention_forward",
        "__syncthreads(); // this tile has come",
        "",
    ),
    mutant(
        "attention_missing_barrier_before_refill",
        "attention.cu",
        "attention_forward",
        "__syncthreads(); // all have read it before the next turn fills it again",
        "",
    ),
    mutant("attention_lax_wait_group", "attention.cu", "attention_forward", "copy_async_wait<1>", "copy_async_wait<2>"),
    mutant(
        "attention_refill_of_stage_in_use",
        "attention.cu",
        "attention_forward",
        "ring[(tile + 1) % 2][1], v_rows",
        "ring[tile % 2][1], v_rows",
    ),
    mutant(
        "attention_no_guard_on_load",
        "attention.cu",
        "attention_forward",
        "inside = row0 + row < length",
        "inside = true",
    ),
    mutant("attention_no_guard_on_store", "attention.cu", "attention_forward", "if (query < length) {", "{"),
    mutant(
        "attention_no_mask_of_keys",
        "attention.cu",
        "attention_forward",
        "key < keys ? scores[n][i] * scale : -INFINITY",
        "scores[n][i] * scale",
    ),
    mutant("attention_mask_off_by_one", "attention.cu", "attention_forward", "key < keys ?", "key < keys - 1 ?"),
    mutant(
        "attention_missing_step_of_maximum",
        "attention.cu",
        "attention_forward",
        "maximum = fmaxf(maximum, __shfl_xor_sync(ALL_LANES, maximum, 2));",
        "",
    ),
    mutant(
        "attention_missing_step_of_sum",
        "attention.cu",
        "attention_forward",
        "sum += __shfl_xor_sync(ALL_LANES, sum, 2);",
        "",
    ),
    mutant(
        "attention_wrong_lse_scale",
        "attention.cu",
        "attention_forward",
        "(state.maximum[half] + log2f(sum)) * LN_2",
        "state.maximum[half] + log2f(sum) * LN_2",
    ),
    mutant("attention_sums_not_scaled_down", "attention.cu", "attention_forward", "sums[n][i] *= shrink;", ""),
    mutant(
        "attention_sum_not_scaled_down",
        "attention.cu",
        "attention_forward",
        "state.sum[half] * shrink + sum",
        "state.sum[half] + sum",
    ),
    mutant("attention_no_trans", "attention.cu", "attention_forward", "load_matrix_x4_trans(v", "load_matrix_x4(v"),
    mutant(
        "attention_no_swizzle_of_keys",
        "attention.cu",
        "attention_forward",
        "keys + swizzle<HEAD>(n * 8 + lane % 8, d * 2 + lane / 8 % 2)",
        "keys + (n * 8 + lane % 8) * HEAD + (d * 2 + lane / 8 % 2) * 8",
    ),
    mutant(
        "attention_swapped_p_registers",
        "attention.cu",
        "attention_forward",
        "pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3])",
        "pack_bf16(low[2], low[3]), pack_bf16(low[0], low[1])",
    ),
    mutant(
        "attention_wrong_head",
        "attention.cu",
        "attention_forward",
        "k_rows = q_rows + heads * HEAD",
        "k_rows = q_rows + HEAD",
    ),
    mutant(
        "attention_warps_leave_early",
        "attention.cu",
        "attention_forward",
        "if (query0 >= length) {",
        "if (query0 + static_cast<int>(threadIdx.x) / 32 * 16 >= length) {",
    ),
    mutant(
        "attention_ring_too_small",
        "attention.cu",
        "attention_forward",
        "ring[2][2][TILE_VALUES]",
        "ring[2][2][TILE_VALUES / 2]",
    ),
    mutant(
        "attention_wrong_lse_row",
        "attention.cu",
        "attention_forward",
        "static_cast<size_t>(head) * rows + start + query",
        "static_cast<size_t>(head) * rows + query",
    ),
    mutant(
        "attention_misaligned_store",
        "attention.cu",
        "attention_forward",
        "(to + n * 8) = pair",
        "(to + n * 8 + 1) = pair",
    ),
    mutant(
        "attention_wrong_sequence_end",
        "attention.cu",
        "attention_forward",
        "starts[blockIdx.z + 1]",
        "starts[blockIdx.z + 2]",
    ),
    mutant("attention_powers_of_e_and_2_mixed", "attention.cu", "attention_forward", "scale * LOG2_E", "scale"),
    // ---- layernorm
    mutant("layernorm_row_guard_off_by_one", "layernorm.cu", "layernorm_bf16", "if (row >= rows)", "if (row > rows)"),
    mutant(
        "layernorm_no_guard_on_load",
        "layernorm.cu",
        "layernorm_bf16",
        "        if (column < dim) {
            const Pack<T> pack = load_pack(x + column);",
        "        {
            const Pack<T> pack = load_pack(x + column);",
    ),
    mutant(
        "layernorm_no_guard_on_store",
        "layernorm.cu",
        "layernorm_f32",
        "        if (column < dim) {
            Pack<T> pack;",
        "        {
            Pack<T> pack;",
    ),
    mutant(
        "layernorm_misaligned_load",
        "layernorm.cu",
        "layernorm_f32",
        "load_pack(x + column)",
        "load_pack(x + column + 2)",
    ),
    mutant(
        "layernorm_no_eps",
        "layernorm.cu",
        "layernorm_f32",
        "rsqrtf(warp_sum(squares) / dim + eps)",
        "rsqrtf(warp_sum(squares) / dim)",
    ),
    mutant(
        "layernorm_wrong_divisor",
        "layernorm.cu",
        "layernorm_bf16",
        "warp_sum(squares) / dim",
        "warp_sum(squares) / (dim - 1)",
    ),
    mutant(
        "layernorm_variance_uncentred",
        "layernorm.cu",
        "layernorm_f32",
        "distance = values[p][i] - mean;",
        "distance = values[p][i];",
    ),
    mutant(
        "layernorm_idle_lanes_leave",
        "layernorm.cu",
        "layernorm_bf16",
        "if (row >= rows)",
        "if (row >= rows || lane * COUNT >= dim)",
    ),
    mutant(
        "layernorm_wrong_row",
        "layernorm.cu",
        "layernorm_f32",
        "blockIdx.x * (blockDim.x / 32)",
        "blockIdx.x * (blockDim.x / 64)",
    ),
    mutant(
        "layernorm_missing_shuffle_step",
        "common.cuh",
        "layernorm_f32",
        "int step = 16; step > 0",
        "int step = 16; step > 1",
    ),
    mutant("layernorm_wrong_shuffle_mask", "common.cuh", "layernorm_f32", "ALL_LANES, x, step", "0x0000ffffu, x, step"),
    mutant(
        "layernorm_variance_in_one_pass",
        "layernorm.cu",
        "layernorm_f32",
        "                const float distance = values[p][i] - mean;
                squares += distance * distance;
            }
        }
    }
    const float rstd = rsqrtf(warp_sum(squares) / dim + eps);",
        "                squares += values[p][i] * values[p][i];
            }
        }
    }
    const float rstd = rsqrtf(warp_sum(squares) / dim - mean * mean + eps);",
    ),
    // ---- reductions
    mutant(
        "sum_missing_barrier",
        "reduce.cu",
        "sum_atomic",
        "    __syncthreads();
    float total = 0.0f;",
        "    float total = 0.0f;",
    ),
    mutant("sum_all_warps_write_one_place", "reduce.cu", "sum_atomic", "sums[threadIdx.x / 32] = x;", "sums[0] = x;"),
    mutant(
        "sum_of_too_few_warps",
        "reduce.cu",
        "sum_atomic",
        "int warp = 0; warp < WARPS",
        "int warp = 0; warp < WARPS - 1",
    ),
    mutant("sum_racy_total", "reduce.cu", "sum_atomic", "atomicAdd(total, sum);", "*total += sum;"),
    mutant(
        "sum_wrong_stride",
        "reduce.cu",
        "sum_atomic",
        "i += gridDim.x * THREADS) {
        sum += x[i];",
        "i += THREADS) {
        sum += x[i];",
    ),
    mutant(
        "sum_missing_fence",
        "reduce.cu",
        "sum_ordered",
        "__threadfence(); // the partial sum before the news of it",
        "",
    ),
    mutant(
        "sum_missing_partial",
        "reduce.cu",
        "sum_ordered",
        "partials[blockIdx.x] = sum;",
        "partials[blockIdx.x | 1] = sum;",
    ),
    mutant("sum_never_last", "reduce.cu", "sum_ordered", "== gridDim.x - 1", "== gridDim.x"),
    mutant("sum_last_too_early", "reduce.cu", "sum_ordered", "== gridDim.x - 1", ">= gridDim.x / 2"),
    mutant("sum_counter_not_reset", "reduce.cu", "sum_ordered", "*finished = 0;", ""),
    mutant(
        "sum_flag_without_barrier",
        "reduce.cu",
        "sum_ordered",
        "    __syncthreads();
    if (last) {",
        "    if (last) {",
    ),
    mutant(
        "prefix_missing_barrier",
        "reduce.cu",
        "prefix_sum",
        "    __syncthreads();
    for (int w = 0; w < warp; w++)",
        "    for (int w = 0; w < warp; w++)",
    ),
    mutant("prefix_wrong_lane_publishes", "reduce.cu", "prefix_sum", "if (lane == 31) {", "if (lane == 30) {"),
    mutant("prefix_adds_to_lowest_lanes", "reduce.cu", "prefix_sum", "lane >= step ? before : 0", "before"),
    mutant(
        "facts_missing_syncwarp",
        "reduce.cu",
        "warp_facts",
        "    __syncwarp();
    if (__ffs(equal) - 1 != lane) {",
        "    if (__ffs(equal) - 1 != lane) {",
    ),
    mutant(
        "facts_vote_of_some",
        "reduce.cu",
        "warp_facts",
        "__any_sync(ALL_LANES, value < 0)",
        "(value < 0 ? __any_sync(ALL_LANES, 1) : 0)",
    ),
    mutant(
        "rotate_missing_syncwarp",
        "reduce.cu",
        "rotate_warp",
        "    __syncwarp();
    const int next",
        "    const int next",
    ),
    mutant("reverse_barrier_of_too_many", "reduce.cu", "reverse_halves", "bar.sync %0, 64;", "bar.sync %0, 128;"),
    mutant("reverse_barrier_of_too_few", "reduce.cu", "reverse_halves", "bar.sync %0, 64;", "bar.sync %0, 32;"),
    mutant("reverse_shared_barrier", "reduce.cu", "reverse_halves", "\"r\"(half + 1)", "\"r\"(1)"),
    mutant("reverse_array_too_small", "reduce.cu", "reverse_halves", "int values[2][64];", "int values[2][48];"),
    mutant(
        "histogram_divergent_barrier",
        "reduce.cu",
        "histogram",
        "        mine[threadIdx.x] = 0;
    }
    __syncthreads();",
        "        mine[threadIdx.x] = 0;
        __syncthreads();
    }",
    ),
    mutant(
        "histogram_missing_first_barrier",
        "reduce.cu",
        "histogram",
        "        mine[threadIdx.x] = 0;
    }
    __syncthreads();",
        "        mine[threadIdx.x] = 0;
    }",
    ),
    mutant("histogram_uninitialised", "reduce.cu", "histogram", "mine[threadIdx.x] = 0;", ""),
    mutant(
        "histogram_plain_shared_addition",
        "reduce.cu",
        "histogram",
        "atomicAdd(&mine[value], 1);",
        "mine[value]++;",
    ),
    mutant(
        "histogram_missing_second_barrier",
        "reduce.cu",
        "histogram",
        "    __syncthreads();
    if (threadIdx.x < 16) {
        atomicAdd",
        "    if (threadIdx.x < 16) {
        atomicAdd",
    ),
    mutant(
        "histogram_plain_global_addition",
        "reduce.cu",
        "histogram",
        "atomicAdd(&counts[threadIdx.x], mine[threadIdx.x]);",
        "counts[threadIdx.x] += mine[threadIdx.x];",
    ),
    mutant("histogram_endless_exchange", "reduce.cu", "histogram", "seen = before;", ""),
    mutant("frequent_stack_too_small", "reduce.cu", "most_frequent", "int counts[16] = {};", "int counts[15] = {};"),
    mutant("frequent_guard_off_by_one", "reduce.cu", "most_frequent", "if (i >= count) {", "if (i > count) {"),
    mutant("frequent_wrong_width", "reduce.cu", "most_frequent", "x[i * width + j]", "x[i * width + j + 1]"),
    mutant(
        "divisors_guard_off_by_one",
        "reduce.cu",
        "divisors",
        "    if (i < count) {
        y[i] = gcd(",
        "    if (i <= count) {
        y[i] = gcd(",
    ),
    mutant("divisors_wrong_remainder", "reduce.cu", "divisors", "rest = a % b;", "rest = a / b % b;"),
    mutant(
        "sum_missing_second_fence",
        "reduce.cu",
        "sum_ordered",
        "__threadfence(); // the news before the others' partial sums",
        "",
    ),
    mutant(
        "reverse_missing_barrier",
        "reduce.cu",
        "reverse_halves",
        "asm volatile(\"bar.sync %0, 64;\" ::\"r\"(half + 1) : \"memory\");",
        "",
    ),
    mutant("frequent_counts_uninitialised", "reduce.cu", "most_frequent", "int counts[16] = {};", "int counts[16];"),
    // ---- Philox
    mutant("philox_nine_rounds", "philox.cu", "philox_words", "round < 10", "round < 9"),
    mutant("philox_key_not_raised", "philox.cu", "philox_words", "key.y += 0xBB67AE85u;", ""),
    mutant("philox_swapped_words", "philox.cu", "philox_words", "key.x, low1, high0", "key.x, low0, high0"),
    mutant(
        "philox_counter_of_32_bits",
        "philox.cu",
        "philox_words",
        "static_cast<uint32_t>(n >> 32), step, op",
        "0, step, op",
    ),
    mutant("dropout_vector_over_the_end", "philox.cu", "dropout_residual", "first + 8 <= count", "first < count"),
    mutant("dropout_misaligned_packs", "philox.cu", "dropout_residual", "threadIdx.x) * 8;", "threadIdx.x) * 4;"),
    mutant(
        "dropout_inverted_mask",
        "philox.cu",
        "dropout_residual",
        "words[2 * i] >= threshold",
        "words[2 * i] < threshold",
    ),
    mutant("dropout_mask_by_thread", "philox.cu", "dropout_residual", "op, first / 4);", "op, threadIdx.x * 2);"),
    mutant("dropout_no_tail", "philox.cu", "dropout_residual", "i < count - first", "i < 0"),
    mutant(
        "dropout_not_scaled",
        "philox.cu",
        "dropout_residual",
        "threshold ? scale : 0.0f;
            const float keep1",
        "threshold ? 1.0f : 0.0f;
            const float keep1",
    ),
];
