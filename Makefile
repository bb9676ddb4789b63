# A thin wrapper over CMake: all targets share the build tree in build/. Presets of CMakePresets.json are for everything beyond.
#
#   make                 builds ./llmtrain and ./check_reference; installs nothing
#   make quickstart      installs what is missing, builds, trains a small model on two ranks and asks it a question
#   make test            installs what is missing, builds, runs all tests but the slow ones     (ARGS="-R hf" for some of them)
#   make test-slow       the slow ones
#   make fuzz            fuzzes every parser of untrusted input, two at a time      (SECONDS=600 for each; default 60)
#   make install         PREFIX=/usr/local DESTDIR=
#   make dist            dist/llmtrain-….tar.xz: runs where it is unpacked, with Open MPI and all libraries
#   make clean
# JOBS=N sets the number of compilers.
PREFIX ?= /usr/local
DESTDIR ?=
ARGS ?=
SECONDS ?= 60

all:
	@scripts/build

quickstart:
	@scripts/build --install-missing
	@scripts/quickstart

test:
	@scripts/build --install-missing all
	@scripts/install-deps --tests >/dev/null || echo "Slurm or clang was not installed: tests that need them will be skipped"
	@scripts/run-tests -LE slow $(ARGS)

test-slow:
	@scripts/build --install-missing all
	@scripts/install-deps --tests >/dev/null || echo "Slurm or clang was not installed: tests that need them will be skipped"
	@scripts/run-tests -L slow $(ARGS)

fuzz:
	@scripts/install-deps --tests >/dev/null || echo "not all packages could be installed"
	@scripts/fuzz --seconds $(SECONDS)

install: all
	@DESTDIR="$(DESTDIR)" cmake --install build --prefix "$(PREFIX)"

dist: all
	@scripts/dist

dist-check:
	@scripts/build all
	@scripts/dist --check

clean:
	@rm -rf build llmtrain check_reference

.PHONY: all quickstart test test-slow fuzz install dist dist-check clean
.NOTPARALLEL:
