/* Lets User Mode Linux run on processors with a large XSAVE area, such as those with AMX.
 *
 * UML gives each of its processes its floating point registers by PTRACE_SETREGSET with a buffer
 * of 2696 bytes (to 6.12 at least). A kernel takes nothing but a whole area (xstateregs_set() of
 * arch/x86/kernel/fpu/regset.c), 11008 bytes with AMX, and answers EFAULT: UML dies with "ptrace
 * set fp regs failed, errno = 14". Preloaded into UML, this completes a short buffer with what
 * the process has now. Reading needs no help: a short buffer gets the beginning of the area.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

enum { AREA = 64 * 1024 };

typedef long ptrace_function(enum __ptrace_request, long, void *, void *);

long ptrace(enum __ptrace_request request, ...)
{
	static ptrace_function *next;
	static char area[AREA];
	va_list arguments;

	va_start(arguments, request);
	long pid = va_arg(arguments, long);
	void *address = va_arg(arguments, void *);
	void *data = va_arg(arguments, void *);
	va_end(arguments);

	if (!next)
		next = (ptrace_function *)dlsym(RTLD_NEXT, "ptrace");
	long result = next(request, pid, address, data);
	if (result == 0 || errno != EFAULT || request != PTRACE_SETREGSET ||
	    address != (void *)NT_X86_XSTATE)
		return result;

	struct iovec *given = data;
	struct iovec whole = { area, AREA };
	if (next(PTRACE_GETREGSET, pid, address, &whole) || whole.iov_len <= given->iov_len) {
		errno = EFAULT;
		return -1;
	}
	memcpy(area, given->iov_base, given->iov_len);
	return next(PTRACE_SETREGSET, pid, address, &whole);
}
