// The program with faults built in, for disturbed_test.cpp: linked from the program's own objects with the linker's --wrap for one function of each phase, so
// that the program itself carries nothing for it. LLMTRAIN_TEST_FAULT=PHASE:ACTION:RANK:CALL lets the CALL-th call of PHASE's function on RANK
// raise (an exception), hang (for ever), stop (SIGSTOP) or crash (SIGSEGV). The symbols are those of the Itanium C++ ABI; a member function's first argument is `this`
// (https://itanium-cxx-abi.github.io/cxx-abi/abi.html).
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>

#include "checkpoint/shard_image.h"
#include "comm/mpi/node_board.h"
#include "model/transformer.h"
#include "optim/adamw.h"
#include "train/batching.h"

namespace {

struct Fault {
  char phase[32] = {}, action[32] = {};
  int rank = -1;
  long call = 0;
  std::atomic<long> calls{0};
  Fault() {
    const char* text = std::getenv("LLMTRAIN_TEST_FAULT");
    const char* me = std::getenv("OMPI_COMM_WORLD_RANK");
    if (!text || !me || std::sscanf(text, "%31[^:]:%31[^:]:%d:%ld", phase, action, &rank, &call) != 4 || std::atoi(me) != rank) phase[0] = 0;
  }
};

void here(const char* phase) {
  static Fault fault;
  if (std::strcmp(fault.phase, phase) != 0 || ++fault.calls != fault.call) return;
  std::fprintf(stderr, "fault: %s in %s on rank %d\n", fault.action, fault.phase, fault.rank);
  if (std::strcmp(fault.action, "raise") == 0) throw std::runtime_error(std::string("a fault of the test in ") + phase);
  if (std::strcmp(fault.action, "hang") == 0) {
    while (true) ::pause();
  }
  ::raise(std::strcmp(fault.action, "stop") == 0 ? SIGSTOP : SIGSEGV);
}

}  // namespace

using namespace llmtrain;

// The same functions as in tests/train/tests.cmake.
#define WRAPPED(symbol) __wrap_##symbol
#define ORIGINAL(symbol) __real_##symbol

extern "C" {

void ORIGINAL(_ZN8llmtrain9NodeBoard4postERKNS_21CollectiveDescriptionE)(NodeBoard*, const CollectiveDescription&);
void WRAPPED(_ZN8llmtrain9NodeBoard4postERKNS_21CollectiveDescriptionE)(NodeBoard* self, const CollectiveDescription& what) {
  if (what.operation == kAllGather) here("gather");
  if (what.operation == kReduceScatter) here("reduce");
  if (what.operation == kFence) here("fence");
  ORIGINAL(_ZN8llmtrain9NodeBoard4postERKNS_21CollectiveDescriptionE)(self, what);
}

double ORIGINAL(_ZN8llmtrain11Transformer16forward_backwardERKNS_5BatchEf)(Transformer*, const Batch&, float);
double WRAPPED(_ZN8llmtrain11Transformer16forward_backwardERKNS_5BatchEf)(Transformer* self, const Batch& batch, float scale) {
  here("compute");
  return ORIGINAL(_ZN8llmtrain11Transformer16forward_backwardERKNS_5BatchEf)(self, batch, scale);
}

AdamW::Result ORIGINAL(_ZN8llmtrain5AdamW4stepEdRNS_6StreamERNS_12CommunicatorE)(AdamW*, double, Stream&, Communicator&);
AdamW::Result WRAPPED(_ZN8llmtrain5AdamW4stepEdRNS_6StreamERNS_12CommunicatorE)(AdamW* self, double rate, Stream& stream, Communicator& communicator) {
  here("optimizer");
  return ORIGINAL(_ZN8llmtrain5AdamW4stepEdRNS_6StreamERNS_12CommunicatorE)(self, rate, stream, communicator);
}

void ORIGINAL(_ZNK8llmtrain6RowSet6appendERNS_5BatchESt4spanIKmLm18446744073709551615EE)(const RowSet*, Batch&, std::span<const size_t>);
void WRAPPED(_ZNK8llmtrain6RowSet6appendERNS_5BatchESt4spanIKmLm18446744073709551615EE)(const RowSet* self, Batch& batch, std::span<const size_t> rows) {
  here("data");
  ORIGINAL(_ZNK8llmtrain6RowSet6appendERNS_5BatchESt4spanIKmLm18446744073709551615EE)(self, batch, rows);
}

ShardImage::Written ORIGINAL(_ZN8llmtrain10ShardImage5writeERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE)(ShardImage*, const std::string&);
ShardImage::Written WRAPPED(_ZN8llmtrain10ShardImage5writeERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE)(ShardImage* self, const std::string& path) {
  here("save");
  return ORIGINAL(_ZN8llmtrain10ShardImage5writeERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE)(self, path);
}

int ORIGINAL(MPI_Finalize)();
int WRAPPED(MPI_Finalize)() {
  const int result = ORIGINAL(MPI_Finalize)();
  here("exit");
  return result;
}
}
