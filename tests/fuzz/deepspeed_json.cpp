// A DeepSpeed JSON, applied to a configuration.
#include "config/deepspeed.h"
#include "core/error.h"
#include "support/fuzz.h"

namespace llmtrain::fuzz {

const Target& target() {
  static const Target t{
      {json("{'train_batch_size':'auto','train_micro_batch_size_per_gpu':'auto','gradient_accumulation_steps':'auto','gradient_clipping':'auto',"
            "'zero_allow_untested_optimizer':true,'fp16':{'enabled':'auto','loss_scale':0,'loss_scale_window':1000,'initial_scale_power':16,'hysteresis':2,"
            "'min_loss_scale':1},'bf16':{'enabled':'auto'},'zero_optimization':{'stage':3,'overlap_comm':false,'contiguous_gradients':true,"
            "'sub_group_size':1e9,'reduce_bucket_size':'auto','stage3_prefetch_bucket_size':'auto','stage3_param_persistence_threshold':'auto',"
            "'stage3_max_live_parameters':1e9,'stage3_gather_16bit_weights_on_model_save':true}}"),
       json("{'zero_optimization':{'stage':3,'offload_optimizer':{'device':'cpu','pin_memory':true},'offload_param':{'device':'nvme'}},'bf16':{'enabled':true}}"),
       json("{'optimizer':{'type':'AdamW','params':{'lr':1e-4,'betas':[0.9,0.95],'eps':1e-8,'weight_decay':0}},'scheduler':{'type':'WarmupLR','params':{}},"
            "'train_batch_size':32,'train_micro_batch_size_per_gpu':4,'gradient_accumulation_steps':2,'gradient_clipping':1.0}"),
       json("{'wall_clock_breakdown':true,'steps_per_print':10,'activation_checkpointing':{'partition_activations':false},'comms_logger':{'enabled':false}}")},
      json_words({"\"auto\"", "\"stage\"", "\"zero_optimization\"", "\"optimizer\"", "\"params\"", "\"betas\"", "\"lr\"", "\"enabled\"", "\"offload_param\"",
                  "\"device\"", "\"cpu\"", "\"train_batch_size\"", "\"gradient_accumulation_steps\"", "\"train_micro_batch_size_per_gpu\"", "\"bf16\"", "\"fp16\""})};
  return t;
}

void take(std::string_view input) {
  const DeepSpeed deepspeed = parse_deepspeed(std::string(input), "ds.json");
  Config config;
  apply_deepspeed(config, deepspeed);
  try {
    check_trainable(deepspeed);
  } catch (const InputError&) {
  }
  for (const int64_t ranks : {1, 3, 1024}) {
    Config one = config;
    try {
      resolve_batch(one, deepspeed, ranks);
    } catch (const InputError&) {
    }
  }
}

}  // namespace llmtrain::fuzz
