#include "app/help.h"

#include <boost/program_options/parsers.hpp>
#include <sstream>

#include "app/commands.h"
#include "config/value.h"
#include "core/error.h"

namespace po = boost::program_options;

namespace llmtrain {
namespace {

constexpr unsigned kWidth = 110;

std::string where_of(const std::string& name) { return "llmtrain " + name; }

}  // namespace

CommandLine::CommandLine(const std::string& name, const std::string& usage, const std::string& text)
    : options("Options", kWidth, kWidth / 2), name_(name), usage_(usage), text_(text) {
  options.add_options()("help,h", "print this text");
}

void CommandLine::take_words(const std::string& what, int count) {
  what_words_ = what;
  max_words_ = count;
}

std::string CommandLine::help() const {
  std::ostringstream out;
  out << "usage: llmtrain " << name_ << " " << usage_ << "\n\n" << text_ << "\n\n" << options;
  if (!epilog_.empty()) out << "\n" << epilog_;
  return out.str();
}

bool CommandLine::parse(const std::vector<std::string>& args, App& app) {
  for (const std::string& word : args) {  // also beside faults, and where a required option is missing
    if (word == "--") break;
    if (word != "--help" && word != "-h") continue;
    app.print(help());
    return false;
  }
  po::options_description all;
  all.add(options).add_options()("words", po::value<std::vector<std::string>>(&words_));
  po::positional_options_description positional;
  positional.add("words", -1);
  const std::string advice = "llmtrain " + name_ + " --help lists the options";
  try {
    const int style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
    po::store(po::command_line_parser(args).options(all).positional(positional).style(style).run(), values_);
    po::notify(values_);
  } catch (const po::unknown_option& e) {
    std::vector<std::string> known;
    for (const auto& option : options.options()) known.push_back("--" + option->long_name());
    throw InputError(where_of(name_), "unknown option '" + e.get_option_name() + "'",
                     "nearest: " + nearest(e.get_option_name(), known) + "; " + advice);
  } catch (const po::error& e) {
    throw InputError(where_of(name_), e.what(), advice);
  }
  if (max_words_ >= 0 && words_.size() > static_cast<size_t>(max_words_)) {
    const std::string& word = words_[static_cast<size_t>(max_words_)];
    throw InputError(where_of(name_), "unexpected word '" + word.substr(0, 80) + "'", "usage: llmtrain " + name_ + " " + usage_);
  }
  return true;
}

std::string program_help() {
  std::ostringstream out;
  out << "llmtrain trains and fine-tunes Llama, Mistral, Qwen and Phi models on clusters.\n\n"
         "usage: llmtrain COMMAND …\n"
         "       llmtrain --config F [key=value…]      the same as llmtrain train --config F\n"
         "       mpirun -np N llmtrain …               on N ranks\n\nCommands:\n";
  for (const Command& command : commands()) {
    std::string name = command.name;
    name.resize(12, ' ');
    out << "  " << name << command.summary << "\n";
  }
  out << "  --version   versions, compiled against and found; --json prints them as JSON\n"
         "  --help      this text; llmtrain COMMAND --help for a command\n\n"
         "Exit codes: 0 done, 2 wrong input (nothing changed), 85 stopped on request after a checkpoint, 77 cannot run here, 1 failed.\n";
  return out.str();
}

}  // namespace llmtrain
