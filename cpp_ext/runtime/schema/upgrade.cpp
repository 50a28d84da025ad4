// What a manifest of an older version of the schema may not hold.
//
// What older versions did not say is filled in where it is read: those fields may be missing there.
#include "schema/fields.h"
#include "schema/manifest.h"

namespace mmedge::runtime {
namespace {

// Calls `check` with each object of a list of the manifest.
template <class Check>
void for_each_object(JsonValue manifest, const char* field, Check check) {
  const auto items = manifest.find(field);
  if (!items || !items->is(JsonKind::kList)) return;
  JsonValue item = items->size() > 0 ? items->first() : *items;
  for (size_t i = 0; i < items->size(); ++i, item = item.next()) {
    if (item.is_mapping()) check(item, i);
  }
}

void refuse_in_items(JsonValue manifest, const char* items, const char* field, int64_t version) {
  const Place root, list(root, items);
  for_each_object(manifest, items, [&](JsonValue item, size_t i) {
    if (const auto value = item.find(field)) {
      throw Misfit(Place(list, i).text(),
                   "no field " + show(std::string_view(field)) + " in version " +
                       std::to_string(version),
                   show(*value));
    }
  });
}

}  // namespace

void check_older_version(JsonValue manifest, int64_t version) {
  if (version == kOldestVersion) {
    for (const char* field : {"constraints", "not_checked", "plans", "states", "loops"}) {
      if (const auto value = manifest.find(field)) {
        throw Misfit("$", "no field " + show(std::string_view(field)) + " in version 3",
                     show(*value));
      }
    }
    const Place root, stages(root, "stages");
    for_each_object(manifest, "stages", [&](JsonValue stage, size_t i) {
      const auto loop = stage.find("loop");
      if (!loop || loop->is_null()) return;
      const Place place(stages, i);
      throw Misfit(Place(place, "loop").text(), "null: this version of mmedge runs each stage once",
                   show(*loop));
    });
  }
  if (version < 5) refuse_in_items(manifest, "variants", "cache", version);
  // Of version 3 it is known that there are none.
  if (version < 6) refuse_in_items(manifest, "loops", "whole_prompt", version);
}

}  // namespace mmedge::runtime
