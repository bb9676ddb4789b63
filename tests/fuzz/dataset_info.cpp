// dataset_info.json, whose datasets are "a" and "b", with files beside it; the rows of what is accepted are converted.
#include "core/error.h"
#include "data/convert.h"
#include "data/dataset_info.h"
#include "data/reference_random.h"
#include "data/row_source.h"
#include "data/tokenize.h"
#include "data/tools.h"
#include "support/fuzz.h"

namespace llmtrain::fuzz {
namespace {

std::string make_folder() {
  put("rows.json", json("[{'instruction':'i','input':'x','output':'o','history':[['q','r']],'conversations':[{'from':'human','value':'q'},{'from':'gpt','value':'r'}],"
                        "'chosen':{'from':'gpt','value':'c'},'rejected':{'from':'gpt','value':'d'},'system':'s','tools':'[]'}]"));
  put("rows.csv", "instruction,output\nq,r\n");
  put("rows.txt", "text\n");
  return scratch();
}

}  // namespace

const Target& target() {
  static const Target t{
      {json("{'a':{'file_name':'rows.json'},'b':{'file_name':'rows.csv','num_samples':2}}"),
       json("{'a':{'file_name':'rows.json','formatting':'sharegpt','columns':{'messages':'conversations','system':'system','tools':'tools'},'tags':{'role_tag':'from',"
            "'content_tag':'value','user_tag':'human','assistant_tag':'gpt','observation_tag':'observation','function_tag':'function_call','system_tag':'system'}}}"),
       json("{'a':{'file_name':'rows.json','ranking':true,'columns':{'prompt':'instruction','query':'input','chosen':'chosen','rejected':'rejected','history':'history'}}}"),
       json("{'a':{'file_name':'rows.txt','columns':{'prompt':'text'},'split':'train','subset':null,'folder':null}}"),
       json("{'a':{'hf_hub_url':'x/y'},'b':{'file_name':'/dev/null'}}"), json("{'a':{'file_name':'rows.json','formatting':'openai'}}"),
       json("{'a':{'file_name':'.','columns':{'response':'output','kto_tag':'system','images':'tools'}}}")},
      json_words({"\"file_name\"", "\"formatting\"", "\"ranking\"", "\"columns\"", "\"tags\"", "\"messages\"", "\"prompt\"", "\"response\"", "\"history\"", "\"sharegpt\"",
                  "\"openai\"", "\"alpaca\"", "\"num_samples\"", "\"split\"", "\"a\"", "\"b\"", "\"rows.json\"", "\"rows.csv\"", "\"rows.txt\"", "\"user_tag\"",
                  "\"role_tag\"", "\"conversations\"", "\"text\"", "\"system\"", "\"tools\"", "\"chosen\"", "\"rejected\"", "\"kto_tag\"", "../", "\\u0000"})};
  return t;
}

void take(std::string_view input) {
  static const std::string folder = make_folder();
  put("dataset_info.json", input);
  for (const Stage stage : {Stage::sft, Stage::dpo, Stage::pt}) {
    for (const char* name : {"a", "b"}) {
      try {
        check_dataset_names(folder, {name}, stage, silent_log());
        for (DatasetEntry& entry : read_dataset_info(folder, {name}, stage, silent_log())) {
          if (entry.files.size() != 1 || entry.files[0].find(folder) != 0) continue;  // not the system's own files
          required_columns(entry, stage);
          optional_columns(entry);
          NumpyLegacy samples(42);
          const DatasetSource source(std::move(entry), DataOptions{}, samples);
          RowReader reader(source.files()[0]);
          Example example;
          convert_row(source.entry(), stage, reader.read(source.locate(0).second), example);
        }
      } catch (const InputError&) {
      } catch (const RowError&) {
      }
    }
  }
}

}  // namespace llmtrain::fuzz
