#include "app/app.h"

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <new>
#include <thread>

#include "app/commands.h"
#include "app/help.h"
#include "config/value.h"
#include "core/error.h"
#include "core/printable.h"

namespace llmtrain {
namespace {

int dispatch(const std::vector<std::string>& words, App& app) {
  if (words.empty() || words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
    app.print(program_help());
    return words.empty() ? kExitInput : kExitDone;
  }
  std::vector<std::string> rest(words.begin() + 1, words.end());
  if (words[0] == "--version" || words[0] == "version") return command_version(rest, app);
  std::string name = words[0];
  if (name == "--config" || name.starts_with("--config=")) {
    name = "train";
    rest = words;
  }
  std::vector<std::string> names;
  for (const Command& command : commands()) {
    if (name == command.name) return command.function(rest, app);
    names.emplace_back(command.name);
  }
  throw InputError("llmtrain", "unknown command '" + name.substr(0, 80) + "'", "nearest: " + nearest(name, names) + "; llmtrain --help lists all");
}

}  // namespace

void App::print(const std::string& text) const {
  if (!speaks()) return;
  std::cout << text << std::flush;
  if (!std::cout) throw OperationError("write to stdout: failed");
}

int rank_of_launcher() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}) {
    const char* text = std::getenv(name);
    if (!text) continue;
    if (const auto rank = parse_integer(text); rank && *rank >= 0) return static_cast<int>(*rank);
  }
  return 0;
}

int run_app(const std::vector<std::string>& words, App& app) {
  // Without MPI every rank has this error: one says it, and the others wait, since a launcher kills all when the first one leaves.
  const auto say = [&](const std::string& message) {
    if (app.speaks()) std::cerr << "llmtrain: " << printable(message, true) << std::endl;
    if (!app.speaks()) std::this_thread::sleep_for(std::chrono::milliseconds(500));
  };
  try {
    return dispatch(words, app);
  } catch (const InputError& e) {
    say(e.what());
    return kExitInput;
  } catch (const NotHere& e) {
    say(e.what());
    return kExitNotHere;
  } catch (const std::bad_alloc&) {
    say("out of host memory");
    return kExitFailed;
  } catch (const std::exception& e) {
    say(e.what());
    return kExitFailed;
  }
}

}  // namespace llmtrain
