// llmtrain: see app/app.h for how a command is picked, docs/cli.md for what each does.
#include <csignal>
#include <string>
#include <vector>

#include "app/app.h"

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // so is a file that reaches the size limit of the shell or the batch system
  std::signal(SIGPIPE, SIG_IGN);  // a reader that went away is a failed write with a message, not a silent death
  llmtrain::App app;
  app.launcher_rank = llmtrain::rank_of_launcher();
  app.log.set_rank(app.launcher_rank, app.speaks());
  return llmtrain::run_app(std::vector<std::string>(argv + 1, argv + argc), app);
}
