// Which tokens the post-processors of a file put around a text.
#include "text/post_processor.h"

#include "text/component_fields.h"

namespace mmedge::runtime {
namespace {

uint32_t read_id(const ComponentFields& fields, const char* name, JsonValue value) {
  int64_t id = 0;
  if (!value.integer(&id) || id < 0 || id > UINT32_MAX) fields.refuse(name, "ids of 32 bits");
  return static_cast<uint32_t>(id);
}

// Of a pair of a token and its id.
uint32_t read_pair(const ComponentFields& fields, const char* name) {
  const auto pair = fields.find(name);
  if (!pair || !pair->is(JsonKind::kList) || pair->size() != 2) fields.refuse(name, "a token and its id");
  return read_id(fields, name, pair->first().next());
}

void read_template(const ComponentFields& fields, std::vector<uint32_t>* before,
                   std::vector<uint32_t>* after) {
  const auto single = fields.find("single"), special = fields.find("special_tokens");
  if (!single || !single->is(JsonKind::kList)) fields.refuse("single", "a list");
  std::vector<uint32_t>* side = before;
  JsonValue piece = single->size() > 0 ? single->first() : JsonValue();
  for (size_t i = 0; i < single->size(); ++i) {
    const auto token = piece.is(JsonKind::kObject) ? piece.find("SpecialToken") : std::nullopt;
    if (piece.is(JsonKind::kObject) && piece.find("Sequence")) {
      side = after;
    } else if (!token || !token->is(JsonKind::kObject)) {
      fields.refuse("single", "a Sequence or a SpecialToken in each");
    } else {
      const std::string name = ComponentFields{*token, fields.where + ".single"}.text("id");
      const auto entry = special && special->is(JsonKind::kObject) ? special->find(name) : std::nullopt;
      const auto ids = entry && entry->is(JsonKind::kObject) ? entry->find("ids") : std::nullopt;
      if (!ids || !ids->is(JsonKind::kList)) fields.refuse("special_tokens", "ids of each token");
      JsonValue id = ids->size() > 0 ? ids->first() : JsonValue();
      for (size_t j = 0; j < ids->size(); ++j) {
        side->push_back(read_id(fields, "special_tokens", id));
        if (j + 1 < ids->size()) id = id.next();
      }
    }
    if (i + 1 < single->size()) piece = piece.next();
  }
}

}  // namespace

PostProcessor::PostProcessor(const std::optional<JsonValue>& value) {
  for (const ComponentFields& fields : flatten(value, "processors", "$.post_processor")) {
    const std::string type = fields.type();
    std::vector<uint32_t> left, right;
    if (type == "BertProcessing" || type == "RobertaProcessing") {
      left.push_back(read_pair(fields, "cls"));
      right.push_back(read_pair(fields, "sep"));
    } else if (type == "TemplateProcessing") {
      read_template(fields, &left, &right);
    } else if (type != "ByteLevel") {
      fields.refuse("type", "a post-processor that is listed in docs/reference/bundle.md");
    }
    // Each goes around what those before it made.
    before.insert(before.begin(), left.begin(), left.end());
    after.insert(after.end(), right.begin(), right.end());
  }
}

}  // namespace mmedge::runtime
