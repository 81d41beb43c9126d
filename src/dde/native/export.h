#ifndef DDE_EXPORT_H
#define DDE_EXPORT_H

#if defined(_WIN32)
#define DDE_EXPORT __declspec(dllexport)
#else
#define DDE_EXPORT __attribute__((visibility("default")))
#endif

/* Equal to _INTERFACE in library.py; changes with any declaration of an exported function. */
#define DDE_INTERFACE 6

#endif
