// Jobs that are disturbed while they run: ranks that are stopped, killed, that raise, hang or crash in one phase; jobs that are killed again and again;
// requests to stop at any moment. Nothing may hang, the guilty rank must be named, and what is computed in the end must not change by a bit.
//
// LLMTRAIN_INJECTIONS (of each of the two kinds), LLMTRAIN_KILLS and LLMTRAIN_STOPS set how many; LLMTRAIN_SEED the random choices.
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "core/file.h"
#include "core/json.h"
#include "train/runs/job.h"
#include "train/runs/own_model.h"

namespace llmtrain {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

int number_from(const char* name, int fallback) {
  const char* text = std::getenv(name);
  return text ? std::atoi(text) : fallback;
}

class Random {
 public:
  explicit Random(uint64_t stream) : engine_(static_cast<uint64_t>(number_from("LLMTRAIN_SEED", 1)) * 1000003 + stream) {}
  int below(int n) { return static_cast<int>(engine_() % static_cast<uint64_t>(n)); }
  double up_to(double limit) { return limit * static_cast<double>(engine_() >> 11) * 0x1p-53; }
  template <class T>
  const T& one_of(const std::vector<T>& all) {
    return all[static_cast<size_t>(below(static_cast<int>(all.size())))];
  }

 private:
  std::mt19937_64 engine_;
};

const OwnModel& own() {
  static const OwnModel model;
  return model;
}

constexpr double kTimeout = 2, kGrace = 5;

// ddp_timeout is what people write against PyTorch's: it must not switch anything off.
std::vector<std::string> words_of(const std::string& output, const std::vector<std::string>& more) {
  std::vector<std::string> words{"--config", "train.yaml", "output_dir=" + output, "ddp_timeout=180000000", "hang_timeout=" + std::to_string(kTimeout)};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

Json diagnosis_of(const std::string& output) {
  RunOptions options;
  options.ranks = 0;
  const RunOutcome run = run_llmtrain({"diagnose", own().output(output) + "/dumps", "--json"}, options);
  return run.exit_code == 0 ? parse_json(run.out, "diagnose") : Json::object();
}

bool guilty_is(const Json& diagnosis, int rank) { return diagnosis.contains("guilty") && diagnosis["guilty"] == Json::array({rank}); }

size_t dumps_in(const std::string& output) {
  size_t n = 0;
  const std::string dir = own().output(output) + "/dumps";
  if (fs::is_directory(dir))
    for (const auto& entry : fs::directory_iterator(dir)) n += entry.path().extension() == ".json";
  return n;
}

struct Tally {
  int injected = 0, hangs = 0, late = 0, crowded = 0, orphans = 0, launcher = 0, named = 0, to_be_named = 0;
  double longest = 0, most_crowded = 1;
  std::map<std::string, int> unnamed;
  void print(const char* what) const {
    std::printf("%s: %d injections, %d hangs, %d later than allowed, %d more only since up to %.1f times as many processes wanted to run as there were processors, %d left processes, "
                "%d times only mpirun lingered, guilty rank named in %d of %d, longest %.1f s\n", what, injected, hangs, late, crowded, most_crowded, orphans, launcher, named, to_be_named, longest);
    for (const auto& [how, n] : unnamed) std::printf("  not named: %s (%d)\n", how.c_str(), n);
    std::fflush(stdout);
  }
};

// All ranks must be gone `allowed` seconds after the fault, and mpirun with them; on a machine that others use too, so many times later. One exception is Open MPI's: when a rank is killed in its handshake with
// mpirun inside MPI_Init, all ranks are gone at once, but mpirun 4.1 itself takes half a minute to notice (docs/reliability.md).
void expect_end(Job& job, double began, double allowed, const std::string& what, Tally& tally) {
  Crowding crowding;
  while (job.wait(0.05) < 0 && now_seconds() - began < (allowed + 60) * crowding.factor() && (now_seconds() - began < 0.5 || !job.processes().empty())) crowding.look();
  const double took = now_seconds() - began;
  tally.longest = std::max(tally.longest, took);
  if (!job.processes().empty()) {
    sleep_seconds(0.3);
    if (job.wait(0) < 0) {
      ++tally.hangs;
      ADD_FAILURE() << what << ": the job hangs\n" << job.output();
    } else if (!job.processes().empty()) {
      ++tally.orphans;
      ADD_FAILURE() << what << ": processes are left";
    }
    return;
  }
  if (took > allowed && took <= allowed * crowding.factor()) {
    ++tally.crowded;
    tally.most_crowded = std::max(tally.most_crowded, crowding.factor());
  } else if (took > allowed) {
    ++tally.late;
    ADD_FAILURE() << what << ": the job ended after " << took << " s instead of " << allowed << "\n" << job.output();
  }
  if (job.wait(3) < 0) {
    ++tally.launcher;
    EXPECT_EQ(job.output().find("set-up:"), std::string::npos) << what << ": mpirun does not end, although all ranks have\n" << job.output();
    EXPECT_GE(job.wait(180), 0) << what << ": mpirun hangs";
  }
  EXPECT_NE(job.wait(0), 0) << what;
}

// How a run communicates: in shared memory or by messages, in turn or overlapped.
std::vector<std::string> some_way(Random& random) {
  return {random.below(2) ? "communicator=mpi" : "communicator=auto", random.below(2) ? "overlap=on" : "overlap=off"};
}

void remember(bool named, const std::string& what, const Json& diagnosis, Tally& tally) {
  ++tally.to_be_named;
  if (named) {
    ++tally.named;
  } else {
    ++tally.unnamed[what + " -> " + diagnosis.dump()];
  }
}

// Signals from outside at any moment of a run: start of MPI, set-up, training, saving, export, end.
TEST(Injections, ASignalAtAnyMomentEndsTheJobAndTheRankIsNamed) {
  Random random(1);
  Tally tally;
  const int wanted = number_from("LLMTRAIN_INJECTIONS", 3);
  for (int i = 0; tally.injected < wanted && i < 3 * wanted + 10; ++i) {
    const std::string output = "signal" + std::to_string(i);
    const int ranks = 2 + random.below(2), victim = random.below(ranks);
    const int signal = random.one_of<int>({SIGSTOP, SIGSTOP, SIGKILL, SIGSEGV});
    const double moment = random.up_to(2.0);
    // Long runs are hit in training; short ones in set-up, at the export, or at the end.
    std::vector<std::string> more = some_way(random);
    more.insert(more.end(), {random.below(4) ? "max_steps=100000" : "max_steps=40", "save_strategy=steps", "save_steps=7", "save_total_limit=1"});
    JobOptions options;
    options.ranks = ranks;
    options.folder = own().path();
    Job job(words_of(output, more), options);
    const pid_t process = job.rank_process(victim, 20);
    if (process == 0) continue;
    sleep_seconds(moment);
    const double began = now_seconds();
    if (job.wait(0) >= 0 || ::kill(process, signal) != 0) continue;  // it was over
    if (signal == SIGSTOP && job.wait(0.5) == 0) continue;           // in its last breath
    ++tally.injected;
    const std::string what = "signal " + std::to_string(signal) + " to rank " + std::to_string(victim) + " of " + std::to_string(ranks) + " after " +
                             std::to_string(moment) + " s (" + more[0] + " " + more[1] + " " + more[2] + ")";
    // MPI_Init and MPI_Finalize have 20 seconds at least.
    const std::string so_far = job.output();
    const bool inside = so_far.find("set-up:") != std::string::npos && so_far.find("model: " + output) == std::string::npos;
    expect_end(job, began, signal != SIGSTOP ? kGrace : (inside ? kTimeout : 20) + kGrace, what, tally);
    if (signal != SIGSTOP) {  // mpirun says it
      const std::string text = job.output();
      remember(text.find("rank " + std::to_string(victim)) != std::string::npos || text.find("," + std::to_string(victim) + "]") != std::string::npos, what, Json(nullptr), tally);
    } else if (dumps_in(output) > 0) {
      const Json diagnosis = diagnosis_of(output);
      remember(guilty_is(diagnosis, victim), what, diagnosis, tally);
    } else {  // before the ranks knew each other, or at the very end: a message must say that the start or the end did not come
      remember(job.output().find("MPI_Init") != std::string::npos || job.output().find("MPI_Finalize") != std::string::npos, what, Json(job.output()), tally);
    }
    fs::remove_all(own().output(output));
  }
  tally.print("signals");
  EXPECT_GE(tally.injected, wanted);
  EXPECT_GE(tally.named * 100, tally.to_be_named * 99);
}

// A rank that raises, hangs or crashes in one phase (runs/faulty.cpp).
TEST(Injections, AFaultInOnePhaseEndsTheJobAndTheDumpNamesTheRank) {
  Random random(2);
  Tally tally;
  const std::vector<std::string> phases{"gather", "reduce", "fence", "compute", "optimizer", "data", "save"};
  const int wanted = number_from("LLMTRAIN_INJECTIONS", 7);
  for (int i = 0; tally.injected < wanted; ++i) {
    const std::string output = "phase" + std::to_string(i), phase = phases[static_cast<size_t>(i) % phases.size()];
    const int ranks = 2 + random.below(2), victim = random.below(ranks);
    // Whoever hangs while saving is taken for a slow disk, which is nobody's fault.
    const std::string action = phase == "save" || i % 3 < 2 ? "raise" : "hang";
    const int any = 1 + random.below(phase == "save" ? 3 : 60);
    const int call = i == 2 ? 1 : any;  // the first hang in a fence is where the ranks meet after the weights were read, still in set-up
    const std::vector<std::string> way = some_way(random);
    JobOptions options;
    options.ranks = ranks;
    options.folder = own().path();
    options.program = LLMTRAIN_TEST_FAULTY;
    options.environment = {{"LLMTRAIN_TEST_FAULT", phase + ":" + action + ":" + std::to_string(victim) + ":" + std::to_string(call)}};
    Job job(words_of(output, {way[0], way[1], "max_steps=100000", "save_strategy=steps", "save_steps=7", "save_total_limit=1"}), options);
    const double limit = now_seconds() + 300;
    while (job.output().find("fault: ") == std::string::npos && job.wait(0.01) < 0 && now_seconds() < limit) {
    }
    const double began = now_seconds();
    const std::string what = action + " in " + phase + " on rank " + std::to_string(victim) + " of " + std::to_string(ranks) + ", call " + std::to_string(call) + " (" +
                             way[0] + " " + way[1] + ")";
    ASSERT_NE(job.output().find("fault: "), std::string::npos) << what << " was not reached:\n" << job.output();
    ++tally.injected;
    expect_end(job, began, action == "hang" ? kTimeout + kGrace : kGrace, what, tally);
    const Json diagnosis = diagnosis_of(output);
    remember(guilty_is(diagnosis, victim), what, diagnosis, tally);
    EXPECT_GE(dumps_in(output), 1u) << what;
    fs::remove_all(own().output(output));
  }
  tally.print("faults in a phase");
  EXPECT_GE(tally.named * 100, tally.to_be_named * 99);
}

// After MPI_Finalize no rank waits for another, but the launcher waits for all (comm/exit_gate.h).
TEST(Exits, ARankThatIsStoppedAfterMpiFinalizeIsNamedAndTheJobEnds) {
  JobOptions options;
  options.ranks = 2;
  options.folder = own().path();
  options.program = LLMTRAIN_TEST_FAULTY;
  options.environment = {{"LLMTRAIN_TEST_FAULT", "exit:stop:1:1"}};
  Job job(words_of("exit", {"max_steps=2"}), options);
  ASSERT_GE(job.wait(180), 1) << "the job hangs, or its end looks like success\n" << job.output();
  EXPECT_NE(job.output().find("is stopped"), std::string::npos) << job.output();
  EXPECT_NE(job.output().find("rank 1 on "), std::string::npos) << job.output();
  EXPECT_TRUE(fs::exists(own().output("exit") + "/model.safetensors")) << "the results are complete";
}

// ---- jobs that are started again

const std::vector<std::string> kLong{"communicator=auto", "gradient_accumulation_steps=6", "save_strategy=steps", "save_steps=3", "save_total_limit=2", "logging_steps=1"};

std::vector<std::string> long_run(int steps, const std::string& more = "") {
  std::vector<std::string> words = kLong;
  words.push_back("max_steps=" + std::to_string(steps));
  if (!more.empty()) words.push_back(more);
  return words;
}

// The steps in trainer_log.jsonl, with tokens seen so far and loss as written.
std::map<int64_t, std::string> log_of(const std::string& output) {
  std::map<int64_t, std::string> steps;
  std::ifstream file(own().output(output) + "/trainer_log.jsonl");
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line.back() != '}') continue;  // being written
    const Json entry = parse_json(line, "trainer_log.jsonl");
    if (entry.contains("loss")) steps[entry["current_steps"].get<int64_t>()] = dump_json(entry["total_tokens"]) + " " + dump_json(entry["loss"]);
  }
  return steps;
}

int64_t last_step(const std::string& output) {
  const auto steps = log_of(output);
  return steps.empty() ? 0 : steps.rbegin()->first;
}

const std::string& undisturbed(int steps, int ranks) {
  static std::map<std::pair<int, int>, std::string> made;
  std::string& name = made[{steps, ranks}];
  if (name.empty()) {
    name = "undisturbed" + std::to_string(steps) + "-" + std::to_string(ranks);
    const RunOutcome run = own().train(name, ranks, long_run(steps));
    EXPECT_EQ(run.exit_code, 0) << run.err;
  }
  return name;
}

// Every loss, every token count (so every sample, once an epoch) and the weights.
void expect_same_run(const std::string& output, const std::string& whole) {
  EXPECT_EQ(log_of(output), log_of(whole));
  EXPECT_EQ(bits_of_run(own().output(output)), bits_of_run(own().output(whole)));
}

TEST(Restarts, KillsOfRandomRanksChangeNoBit) {
  Random random(3);
  const int kills = number_from("LLMTRAIN_KILLS", 4), steps = 10 * kills, ranks = 2;
  const std::string whole = undisturbed(steps, ranks), output = "killed";
  int done = 0, starts = 0, in_set_up = 0;
  while (true) {
    ASSERT_LT(++starts, 3 * kills + 5) << "no progress";
    JobOptions options;
    options.ranks = ranks;
    options.folder = own().path();
    Job job(words_of(output, long_run(steps)), options);
    if (done < kills) {
      const pid_t process = job.rank_process(random.below(ranks), 20);
      const bool early = random.below(5) == 0;
      // A step further on than where this start begins, but early enough that the kills are spread over the run.
      const int64_t target = std::min<int64_t>(steps - 1, last_step(output) + 1 + random.below(2 * steps / kills));
      const double limit = now_seconds() + (early ? random.up_to(0.4) : 60);
      while (now_seconds() < limit && job.wait(0.002) < 0 && (early || last_step(output) < target)) {
      }
      if (process != 0 && job.wait(0) < 0 && ::kill(process, SIGKILL) == 0) {
        ++done;
        in_set_up += early;
        ASSERT_GE(job.wait(10), 0) << "the job does not end";
        continue;
      }
    }
    const int code = job.wait(120);
    ASSERT_GE(code, 0) << "the job hangs:\n" << job.output();
    ASSERT_EQ(code, 0) << job.output();
    if (done >= kills || last_step(output) >= steps) break;
  }
  std::printf("kills: %d of random ranks (%d during set-up) in %d steps on %d ranks, %d starts\n", done, in_set_up, steps, ranks, starts);
  EXPECT_GE(done, kills);
  expect_same_run(output, whole);
}

TEST(Restarts, ARequestToStopAtAnyMomentLeavesACheckpointAndExitCode85) {
  Random random(4);
  const int stops = number_from("LLMTRAIN_STOPS", 3), steps = std::min(12 * stops, 240), ranks = 2;  // many stops: of several such runs, one after the other
  const std::string whole = undisturbed(steps, ranks), output = "stopped";
  int done = 0, missed = 0;
  for (int starts = 1;; ++starts) {
    ASSERT_LT(starts, 3 * stops + 5);
    JobOptions options;
    options.ranks = ranks;
    options.folder = own().path();
    Job job(words_of(output, long_run(steps, "save_steps=1000")), options);
    const int64_t before = last_step(output);
    if (done < stops) {
      const pid_t process = job.rank_process(random.below(ranks), 20);
      ASSERT_NE(process, 0);
      const bool early = random.below(4) == 0;  // set-up: the step after it is still done
      while (early && job.output().empty() && job.wait(0.005) < 0) {  // before the program runs, nobody takes a signal but the system
      }
      const int64_t target = before + 1 + random.below(16);
      const double limit = now_seconds() + (early ? random.up_to(0.3) : 60);
      while (now_seconds() < limit && job.wait(0.002) < 0 && (early || last_step(output) < std::min<int64_t>(target, steps))) {
      }
      const int signal = random.one_of<int>({SIGUSR1, SIGTERM});
      // To one rank, or by way of mpirun, which passes SIGUSR1 on to all.
      const bool through_launcher = signal == SIGUSR1 && random.below(2) == 0;
      if (job.wait(0) < 0 && ::kill(through_launcher ? job.launcher() : process, signal) == 0) {
        if (random.below(2)) ::kill(process, SIGUSR1);  // a second one changes nothing
        const int code = job.wait(60);
        ASSERT_TRUE(code == 85 || code == 0) << "signal " << signal << ": " << code << "\n" << job.output();
        if (code == 85) {
          ++done;
          ASSERT_GT(last_step(output), before) << job.output();
          ASSERT_TRUE(is_regular_file(own().output(output) + "/checkpoint-" + std::to_string(last_step(output)) + "/manifest.json")) << job.output();
          continue;
        }
        ++missed;  // the last step was done already
      }
    }
    const int code = job.wait(120);
    ASSERT_EQ(code, 0) << job.output();
    if (last_step(output) >= steps) {
      expect_same_run(output, whole);
      if (done >= stops) break;
      fs::remove_all(own().output(output));
    }
  }
  std::printf("requests to stop: %d of %d ended with 85 and a checkpoint to go on from (%d came after the last step)\n", done, done, missed);
}

// ---- a rank that is slow

TEST(Stragglers, ARankThatIsHeldUpFromOutsideIsNamed) {
  JobOptions options;
  options.ranks = 2;
  options.folder = own().path();
  Job job(words_of("slow", {"gradient_accumulation_steps=48", "max_steps=100000", "overlap=off", "hang_timeout=60"}), options);
  const auto says = [&](const std::string& text) { return job.output().find(text) != std::string::npos; };
  double limit = now_seconds() + 60;
  while (!says("step 5/") && job.wait(0.05) < 0 && now_seconds() < limit) {
  }
  const pid_t process = job.rank_process(1, 5);
  ASSERT_NE(process, 0) << job.output();
  limit = now_seconds() + 60;
  while (!says("is a straggler") && job.wait(0) < 0 && now_seconds() < limit) {
    for (int i = 0; i < 20; ++i) {  // three quarters of the time stopped: the machine's own noise takes some of the effect
      ::kill(process, SIGSTOP);
      sleep_seconds(0.009);
      ::kill(process, SIGCONT);
      sleep_seconds(0.003);
    }
  }
  EXPECT_TRUE(says("rank 1 on ")) << job.output();
  EXPECT_TRUE(says("is a straggler")) << job.output();
  EXPECT_FALSE(says("rank 0 on ")) << job.output();
}

// A node that is suspended (a laptop's lid, a virtual machine, a scheduler's SIGSTOP to the whole job) for longer than hang_timeout: nobody is to blame, and
// the time asleep is no time without progress.
TEST(Stragglers, AJobThatIsStoppedAsAWholeGoesOn) {
  JobOptions options;
  options.ranks = 2;
  options.folder = own().path();
  Job job(words_of("suspended", {"max_steps=100000", "overlap=off", "hang_timeout=3"}), options);
  const double limit = now_seconds() + 60;
  while (job.output().find("step 5/") == std::string::npos && job.wait(0.05) < 0 && now_seconds() < limit) {
  }
  const pid_t first = job.rank_process(0, 5), second = job.rank_process(1, 5);
  ASSERT_TRUE(first != 0 && second != 0) << job.output();
  for (int i = 0; i < 2; ++i) {
    ::kill(first, SIGSTOP);
    ::kill(second, SIGSTOP);
    sleep_seconds(4.5);
    ::kill(i % 2 ? second : first, SIGCONT);  // one wakes a little before the other
    sleep_seconds(0.3);
    ::kill(i % 2 ? first : second, SIGCONT);
    EXPECT_LT(job.wait(1.5), 0) << "it ended at stop " << i << ":\n" << job.output();
  }
}

}  // namespace
}  // namespace llmtrain
