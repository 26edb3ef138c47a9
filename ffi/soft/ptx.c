/* SPDX-License-Identifier: Apache-2.0 */
#include "ptx.h"

#include <string.h>

static const char word_bytes[] = ".%_$ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/* The next directive, name or number, without comments; its length is 0 at the end of the text. */
static const char *ptx_word(const char *text, size_t *length)
{
    while (*text && !strchr(word_bytes, *text)) {
        const char *end = NULL;
        if (!strncmp(text, "//", 2))
            end = strchr(text, '\n');
        else if (!strncmp(text, "/*", 2))
            end = strstr(text + 2, "*/");
        else
            end = text;
        text = end ? end + 1 : text + strlen(text);
    }
    *length = strspn(text, word_bytes);
    return text;
}

static bool ptx_is(const char *word, size_t length, const char *wanted)
{
    return length == strlen(wanted) && !strncmp(word, wanted, length);
}

bool ptx_check(const char *text)
{
    size_t length;
    const char *word = ptx_word(text, &length);
    return ptx_is(word, length, ".version");
}

bool ptx_declares(const char *text, const char *name)
{
    size_t length;
    const char *word = ptx_word(text, &length);
    while (length) {
        bool entry = ptx_is(word, length, ".entry");
        word = ptx_word(word + length, &length);
        if (entry && ptx_is(word, length, name))
            return true;
    }
    return false;
}
