#ifndef DDE_EXPORT_H
#define DDE_EXPORT_H

#if defined(_WIN32)
#define DDE_EXPORT __declspec(dllexport)
#else
#define DDE_EXPORT __attribute__((visibility("default")))
#endif

/* As _INTERFACE in library.py: changes with any declaration of a kernel or of what it is given. */
#define DDE_INTERFACE 3

#endif
