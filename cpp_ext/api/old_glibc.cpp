// Lets the library run on C libraries older than the one that it was built with (from glibc 2.27 on).
//
// glibc gave some functions a new version without a change of what they do: dlopen and its kin, and
// those of threads, moved to libc in 2.34, stat and its kin became functions of their own in 2.33, and
// exp, log and pow set no errno since 2.29. A program that is linked with a new glibc asks for those
// versions, and an old one refuses to load it. The names below are found here first, hidden from
// everybody else, and lead to what every glibc has.
#include <gnu/libc-version.h>

#if defined(__GLIBC__) && (defined(__x86_64__) || defined(__aarch64__))

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define MMEDGE_OLDEST "GLIBC_2.2.5"
#define MMEDGE_OLDEST_DLINFO "GLIBC_2.3.3"
#define MMEDGE_OLDEST_PROTOCOL "GLIBC_2.4"
#else
#define MMEDGE_OLDEST "GLIBC_2.17"
#define MMEDGE_OLDEST_DLINFO "GLIBC_2.17"
#define MMEDGE_OLDEST_PROTOCOL "GLIBC_2.17"
#endif

#define MMEDGE_HIDDEN __attribute__((visibility("hidden")))

extern "C" {

__asm__(".symver oldest_dlopen, dlopen@" MMEDGE_OLDEST);
__asm__(".symver oldest_dlclose, dlclose@" MMEDGE_OLDEST);
__asm__(".symver oldest_dlsym, dlsym@" MMEDGE_OLDEST);
__asm__(".symver oldest_dlerror, dlerror@" MMEDGE_OLDEST);
__asm__(".symver oldest_dladdr, dladdr@" MMEDGE_OLDEST);
__asm__(".symver oldest_dlinfo, dlinfo@" MMEDGE_OLDEST_DLINFO);
__asm__(".symver oldest_exp, exp@" MMEDGE_OLDEST);
__asm__(".symver oldest_log, log@" MMEDGE_OLDEST);
__asm__(".symver oldest_pow, pow@" MMEDGE_OLDEST);
__asm__(".symver oldest_pthread_create, pthread_create@" MMEDGE_OLDEST);
__asm__(".symver oldest_pthread_join, pthread_join@" MMEDGE_OLDEST);
__asm__(".symver oldest_pthread_once, pthread_once@" MMEDGE_OLDEST);
__asm__(".symver oldest_pthread_key_create, __pthread_key_create@" MMEDGE_OLDEST);
__asm__(".symver oldest_mutexattr_init, pthread_mutexattr_init@" MMEDGE_OLDEST);
__asm__(".symver oldest_mutexattr_destroy, pthread_mutexattr_destroy@" MMEDGE_OLDEST);
__asm__(".symver oldest_mutexattr_setprotocol, pthread_mutexattr_setprotocol@" MMEDGE_OLDEST_PROTOCOL);
__asm__(".symver oldest_condattr_setclock, pthread_condattr_setclock@" MMEDGE_OLDEST_DLINFO);

void* oldest_dlopen(const char*, int);
int oldest_dlclose(void*);
void* oldest_dlsym(void*, const char*);
char* oldest_dlerror();
int oldest_dladdr(const void*, Dl_info*);
int oldest_dlinfo(void*, int, void*);
double oldest_exp(double);
double oldest_log(double);
double oldest_pow(double, double);
int oldest_pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
int oldest_pthread_join(pthread_t, void**);
int oldest_pthread_once(pthread_once_t*, void (*)());
int oldest_pthread_key_create(pthread_key_t*, void (*)(void*));
int oldest_mutexattr_init(pthread_mutexattr_t*);
int oldest_mutexattr_destroy(pthread_mutexattr_t*);
int oldest_mutexattr_setprotocol(pthread_mutexattr_t*, int);
int oldest_condattr_setclock(pthread_condattr_t*, clockid_t);

MMEDGE_HIDDEN void* dlopen(const char* path, int mode) noexcept { return oldest_dlopen(path, mode); }
MMEDGE_HIDDEN int dlclose(void* handle) noexcept { return oldest_dlclose(handle); }
MMEDGE_HIDDEN void* dlsym(void* handle, const char* name) noexcept {
  return oldest_dlsym(handle, name);
}
MMEDGE_HIDDEN char* dlerror() noexcept { return oldest_dlerror(); }
MMEDGE_HIDDEN int dladdr(const void* address, Dl_info* info) noexcept {
  return oldest_dladdr(address, info);
}
MMEDGE_HIDDEN int dlinfo(void* handle, int request, void* out) noexcept {
  return oldest_dlinfo(handle, request, out);
}

MMEDGE_HIDDEN int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                                 void* (*work)(void*), void* argument) noexcept {
  return oldest_pthread_create(thread, attributes, work, argument);
}
MMEDGE_HIDDEN int pthread_join(pthread_t thread, void** result) {
  return oldest_pthread_join(thread, result);
}
MMEDGE_HIDDEN int pthread_once(pthread_once_t* once, void (*work)()) {
  return oldest_pthread_once(once, work);
}
MMEDGE_HIDDEN int __pthread_key_create(pthread_key_t* key, void (*destroy)(void*)) noexcept {
  return oldest_pthread_key_create(key, destroy);
}
MMEDGE_HIDDEN int pthread_mutexattr_init(pthread_mutexattr_t* attributes) noexcept {
  return oldest_mutexattr_init(attributes);
}
MMEDGE_HIDDEN int pthread_mutexattr_destroy(pthread_mutexattr_t* attributes) noexcept {
  return oldest_mutexattr_destroy(attributes);
}
MMEDGE_HIDDEN int pthread_mutexattr_setprotocol(pthread_mutexattr_t* attributes,
                                                int protocol) noexcept {
  return oldest_mutexattr_setprotocol(attributes, protocol);
}
MMEDGE_HIDDEN int pthread_condattr_setclock(pthread_condattr_t* attributes,
                                            clockid_t clock) noexcept {
  return oldest_condattr_setclock(attributes, clock);
}

// Since 2.29 these do not set errno, which nobody here reads.
double exp(double x) noexcept { return oldest_exp(x); }
double log(double x) noexcept { return oldest_log(x); }
double pow(double base, double exponent) noexcept {
  return oldest_pow(base, exponent);
}

// On 64-bit Linux the kernel's struct stat is the C library's.
MMEDGE_HIDDEN int fstatat(int folder, const char* path, struct stat* out, int flags) noexcept {
  return static_cast<int>(syscall(SYS_newfstatat, folder, path, out, flags));
}
MMEDGE_HIDDEN int stat(const char* path, struct stat* out) noexcept {
  return fstatat(AT_FDCWD, path, out, 0);
}
MMEDGE_HIDDEN int lstat(const char* path, struct stat* out) noexcept {
  return fstatat(AT_FDCWD, path, out, AT_SYMLINK_NOFOLLOW);
}
MMEDGE_HIDDEN int fstat(int file, struct stat* out) noexcept {
  return static_cast<int>(syscall(SYS_fstat, file, out));
}

// Read by std::shared_ptr, since glibc 2.32: false is right with and without threads.
MMEDGE_HIDDEN char __libc_single_threaded = 0;

}  // extern "C"

#endif
