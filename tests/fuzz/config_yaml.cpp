// The YAML of a run. What is accepted is written as the resolved YAML, which must be accepted again and mean the same.
#include "config/config.h"
#include "core/error.h"
#include "support/fuzz.h"

namespace llmtrain::fuzz {

const Target& target() {
  static const Target t{
      {"model_name_or_path: m\nstage: sft\ndo_train: true\nfinetuning_type: full\ndataset: a,b\ntemplate: llama3\ncutoff_len: 256\noutput_dir: out\n",
       "model_name_or_path: m\ndataset: [a, b]\ninterleave_probs: 0.5,0.5\nlearning_rate: 1.0e-4\nnum_train_epochs: 3.0\nlr_scheduler_type: cosine\n"
       "lr_scheduler_kwargs: {min_lr_rate: 0.1}\nwarmup_ratio: 0.1\nbf16: true\nsave_steps: 0.5\nval_size: 0.1\neval_strategy: steps\n",
       "stage: pt\npacking: null\nneat_packing: false\nmax_samples: 10\nfreeze_trainable_layers: -2\nfreeze_trainable_modules: all\nmax_hours: 0.25\n",
       "# comment\n\"learning_rate\": 'x'\nresume_from_checkpoint: true\nreport_to: none\nddp_timeout: 180000000\noverwrite_cache: yes\n",
       "a: &x [1]\nb: *x\n", "---\nseed: 0x10\n...\n", "default_system: |\n  two\n  lines\ntool_format: >-\n  folded\n", "{stage: sft, seed: 1_000, max_steps: 0o17}"},
      {"model_name_or_path", "stage", "finetuning_type", "dataset", "template", "cutoff_len", "output_dir", "lr_scheduler_kwargs", "min_lr_rate", "deepspeed",
       "interleave_probs", "freeze_trainable_modules", "rope_scaling", "truncation", "val_size", "save_steps", "logging_steps", "warmup_steps", "max_hours",
       "bf16: true", ": ", "\n", "- ", "|\n", ">-\n", "&x ", "*x", "!!str ", "!!map", "{", "}", "[", "]", ".inf", ".nan", "0x", "0o", "1e999", "~", "null",
       "true", "\\\"", "? ", "<<: ", "%YAML 1.2\n", "--- ", "...\n"}};
  return t;
}

void take(std::string_view input) {
  const Config config = parse_config(input, "fuzz.yaml");
  notes_of(config);
  steps_of(config.save_steps, 1000);
  warmup_steps_of(config, 1000);
  config.recompute_mode();
  config.evaluation_steps();
  const std::string resolved = resolved_yaml(config);
  try {
    if (!same_values(parse_config(resolved, "resolved.yaml"), config)) finding("the resolved YAML means something else:\n" + resolved);
  } catch (const InputError& e) {
    finding(std::string("the resolved YAML is refused: ") + e.what() + "\n" + resolved);
  }
  for (void (*check)(const Config&) : {static_cast<void (*)(const Config&)>(check_trainable), check_tokenizable}) {
    try {
      check(config);
    } catch (const InputError&) {
    }
  }
}

}  // namespace llmtrain::fuzz
