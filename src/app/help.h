// CommandLine: the options of one sub-command, by Boost.ProgramOptions. Makes --help, and turns every fault of the words into an InputError that
// names the nearest option.
//
//   CommandLine line("data", "--config F [key=value…] [--out FILE]", "Tokenises the datasets of a configuration …");
//   line.options.add_options()("config", value<std::string>()->required(), "the YAML")("out", value<std::string>(), "rows as JSON lines");
//   line.take_words("key=value", -1);
//   if (!line.parse(args, app)) return kExitDone;  // --help was asked for and printed
//   const auto config = load_config(line.get<std::string>("config"), line.words());
#pragma once

#include <boost/program_options/options_description.hpp>
#include <boost/program_options/positional_options.hpp>
#include <boost/program_options/value_semantic.hpp>
#include <boost/program_options/variables_map.hpp>
#include <string>
#include <vector>

#include "app/app.h"

namespace llmtrain {

class CommandLine {
 public:
  // `usage`: what follows the command's name; `text`: a paragraph or two.
  CommandLine(const std::string& name, const std::string& usage, const std::string& text);

  boost::program_options::options_description options;
  // Words without dashes are taken, at most `count` (-1: any number); `what` names them in messages. Without this call there may be none.
  void take_words(const std::string& what, int count);
  // Printed behind the options by --help.
  void set_epilog(const std::string& text) { epilog_ = text; }

  // false: --help was given and printed. InputError otherwise.
  bool parse(const std::vector<std::string>& args, App& app);

  bool has(const std::string& option) const { return values_.count(option) > 0; }
  template <class T>
  T get(const std::string& option) const {
    return values_[option].as<T>();
  }
  template <class T>
  T get(const std::string& option, const T& fallback) const {
    return has(option) ? values_[option].as<T>() : fallback;
  }
  const std::vector<std::string>& words() const { return words_; }
  std::string help() const;

 private:
  std::string name_, usage_, text_, epilog_, what_words_;
  int max_words_ = 0;
  std::vector<std::string> words_;
  boost::program_options::variables_map values_;
};

// `llmtrain --help`: all commands.
std::string program_help();

}  // namespace llmtrain
