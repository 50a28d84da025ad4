// Regular expressions whose time is bounded by their form: mmedge/schema/patterns.py.
#ifndef MMEDGE_RUNTIME_SCHEMA_PATTERNS_H_
#define MMEDGE_RUNTIME_SCHEMA_PATTERNS_H_

#include <string>
#include <string_view>

namespace mmedge::runtime {

// How many alternatives of a pattern may fail after a repetition, and so be tried from many places.
//
// Takes the pattern in UTF-8 and its JSON path for messages. Throws Misfit (schema/read.h): the
// pattern has a form whose time is not bounded, or one that is not known here.
int check_pattern(std::string_view pattern, const std::string& where);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_SCHEMA_PATTERNS_H_
