// Finds and loads an engine's shared library when the program runs.
#ifndef MMEDGE_RUNTIME_BACKENDS_SHARED_LIBRARY_H_
#define MMEDGE_RUNTIME_BACKENDS_SHARED_LIBRARY_H_

#include <string>

namespace mmedge::runtime {

// How an engine's library is called and where it lies. Lists end with a null.
struct LibraryPlaces {
  const char* engine;           // in messages
  const char* file;             // a file's name begins with it, and a version may follow
  const char* const* below;     // folders below one that is given, such as "/lib"; the first is ""
  const char* below_in_words;
  const char* const* system;    // what the system's loader is asked for
  const char* const* folders;   // of the system, where the loader knows no name without a version
};

// Loads it. `location` is a library file, or a folder that holds one; empty: beside this code, or
// else the system's. Where a folder holds several, the highest version counts. `name` gets the path
// as the loader has it. It is counted once more with each call, as by dlopen.
// Throws Error(kBackend): there is none, or it cannot be loaded.
void* open_library(const LibraryPlaces& places, const std::string& location, std::string* name);

}  // namespace mmedge::runtime

#endif  // MMEDGE_RUNTIME_BACKENDS_SHARED_LIBRARY_H_
