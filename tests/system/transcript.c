// SPDX-License-Identifier: GPL-2.0
/*
 * Carries out the transcript of a terminal: types what was typed there, and asks for what was printed.
 *
 *   transcript SECONDS FILE PROMPT...
 *
 * A shell runs on a terminal of its own; its prompt is the first PROMPT. The rest of a line of FILE that
 * begins with a PROMPT is typed once the terminal shows that prompt, as its last. A line in brackets has
 * keys: [Enter], [Ctrl-a d], [~.]. Every other line has to be printed, after what came before it, within
 * SECONDS. There, "…" stands for anything, blanks for blanks, and a number of two digits or more for
 * any number, with its unit. More may be printed than the transcript has.
 *
 * Prints KTAP, a result for each line that is typed, and behind it what the terminal showed.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <err.h>
#include <poll.h>
#include <pty.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_LEN 1024

/* What the terminal has shown, without carriage returns and escape sequences, and how much of it is behind us. */
static char shown[1 << 20];
static size_t shown_len, behind;
static int terminal;
static char **prompts;
static int limit;

/* --- The terminal --- */

static void start_shell(const char *prompt)
{
	/* Wide, so that the shell does not break lines while it echoes them. */
	struct winsize size = { .ws_row = 50, .ws_col = 250 };

	switch (forkpty(&terminal, NULL, NULL, &size)) {
	case -1:
		err(1, "forkpty");
	case 0:
		setenv("PS1", prompt, 1);
		setenv("PS2", "> ", 1);
		execlp("sh", "sh", "-i", (char *)NULL);
		err(127, "sh");
	}
}

/* Keeps a byte, unless it only moves the cursor. */
static void keep(char c)
{
	static enum { TEXT, ESCAPE, SEQUENCE } state;

	switch (state) {
	case ESCAPE:
		state = c == '[' ? SEQUENCE : TEXT;
		return;
	case SEQUENCE:
		state = isalpha((unsigned char)c) ? TEXT : SEQUENCE;
		return;
	case TEXT:
		if (c == '\033')
			state = ESCAPE;
		else if (c && c != '\r' && c != '\a' && shown_len + 1 < sizeof(shown))
			shown[shown_len++] = c;
	}
}

/* Takes what the terminal prints, for a moment. Returns whether it is still there. */
static int listen_a_moment(void)
{
	struct pollfd fd = { .fd = terminal, .events = POLLIN };
	char bytes[4096];
	ssize_t len;

	if (poll(&fd, 1, 100) <= 0)
		return 1;
	len = read(terminal, bytes, sizeof(bytes));
	for (ssize_t i = 0; i < len; i++)
		keep(bytes[i]);
	shown[shown_len] = 0;
	return len > 0;
}

/* Waits until `is_there` finds `what`. */
static int wait_for(int (*is_there)(const void *), const void *what)
{
	time_t end = time(NULL) + limit;

	while (!is_there(what))
		if (time(NULL) > end || !listen_a_moment())
			return is_there(what);
	return 1;
}

/* Waits until nothing is printed for a second: whoever takes keys has to be there. */
static void wait_for_silence(void)
{
	for (int moments = 0; moments < 10; moments++) {
		size_t before = shown_len;

		if (!listen_a_moment())
			return;
		if (shown_len != before)
			moments = -1;
	}
}

static void type(const char *bytes, size_t len)
{
	behind = shown_len;
	while (len) {
		ssize_t done = write(terminal, bytes, len);

		if (done <= 0)
			err(1, "cannot type");
		bytes += done;
		len -= (size_t)done;
	}
}

/* --- What has to be printed --- */

/* Whether the terminal shows the prompt, and nothing after it. */
static int ends_with(const void *prompt)
{
	size_t len = strlen(prompt);

	return shown_len >= behind + len && !memcmp(shown + shown_len - len, prompt, len);
}

/* Writes the regular expression for a line of the transcript. */
static void expression(const char *line, char *out)
{
	char last = 0;

	*out++ = '^';
	while (*line) {
		if (!strncmp(line, "…", strlen("…"))) {
			out = stpcpy(out, ".*");
			line += strlen("…");
			last = '.';
		} else if (isdigit((unsigned char)line[0]) && isdigit((unsigned char)line[1]) && !isalnum((unsigned char)last)) {
			out = stpcpy(out, "[0-9][0-9A-Za-z.]*");
			while (isalnum((unsigned char)*line) || *line == '.')
				last = *line++;
		} else if (*line == ' ') {
			out = stpcpy(out, "[ \t]+");
			while (*line == ' ')
				line++;
			last = ' ';
		} else {
			if (strchr("\\^$.[]|()*+?{}", *line))
				*out++ = '\\';
			last = *out++ = *line++;
		}
	}
	strcpy(out, "[ \t]*$");
}

/* Whether the terminal shows a line, after what is behind us; it is behind us then. */
static int shows(const void *pattern)
{
	regmatch_t match;
	int flags = behind && shown[behind - 1] != '\n' ? REG_NOTBOL : 0;

	if (regexec(pattern, shown + behind, 1, &match, flags))
		return 0;
	behind += (size_t)match.rm_eo;
	return 1;
}

static int is_printed(const char *line)
{
	char text[LINE_MAX_LEN * 20];
	regex_t pattern;
	int found;

	expression(line, text);
	if (regcomp(&pattern, text, REG_EXTENDED | REG_NEWLINE))
		errx(1, "no expression: %s", text);
	found = wait_for(shows, &pattern);
	regfree(&pattern);
	return found;
}

/* --- What is typed --- */

static const char *prompt_of(const char *line)
{
	for (char **prompt = prompts; *prompt; prompt++)
		if (!strncmp(line, *prompt, strlen(*prompt)))
			return *prompt;
	return NULL;
}

/* Presses the keys of a line like "[Ctrl-a d]". */
static void press(const char *line)
{
	char text[LINE_MAX_LEN], *rest = text, *word;
	char keys[LINE_MAX_LEN];
	size_t len = 0;

	snprintf(text, sizeof(text), "%.*s", (int)strlen(line) - 2, line + 1);
	while ((word = strsep(&rest, " "))) {
		if (!strcmp(word, "Enter"))
			keys[len++] = '\r';
		else if (!strncmp(word, "Ctrl-", 5))
			keys[len++] = word[5] & 0x1f;
		else
			while (*word)
				keys[len++] = *word++;
	}
	wait_for_silence();
	type(keys, len);
}

/* --- The transcript --- */

static int results;

static void result(const char *line, const char *missing)
{
	printf("%sok %d %s\n", missing ? "not " : "", ++results, line);
	if (missing)
		printf("# did not see: %s\n", missing);
	fflush(stdout);
}

/* Carries out the transcript; returns what was not printed, if anything. */
static const char *carry_out(FILE *file)
{
	static char line[LINE_MAX_LEN + 1], typed[LINE_MAX_LEN];

	while (fgets(line, LINE_MAX_LEN, file)) {
		const char *prompt;

		line[strcspn(line, "\n")] = 0;
		prompt = prompt_of(line);
		if (prompt || (line[0] == '[' && line[strlen(line) - 1] == ']')) {
			if (prompt && !wait_for(ends_with, prompt))
				return prompt;
			if (*typed)
				result(typed, NULL);
			strcpy(typed, prompt ? line + strlen(prompt) : line);
			if (prompt) {
				strcat(line, "\r");
				type(line + strlen(prompt), strlen(line) - strlen(prompt));
			} else {
				press(line);
			}
		} else if (strcmp(line, "…") && !is_printed(line)) {
			result(typed, line);
			return line;
		}
	}
	if (!wait_for(ends_with, prompts[0])) {
		result(typed, prompts[0]);
		return prompts[0];
	}
	result(typed, NULL);
	return NULL;
}

static void print_shown(void)
{
	char *rest = shown, *line;

	while ((line = strsep(&rest, "\n")))
		printf("# | %s\n", line);
}

int main(int argc, char **argv)
{
	FILE *file = argc > 3 ? fopen(argv[2], "r") : NULL;
	const char *missing;

	if (!file)
		errx(1, "usage: transcript SECONDS FILE PROMPT...");
	limit = atoi(argv[1]);
	prompts = argv + 3;
	start_shell(prompts[0]);
	missing = carry_out(file);
	printf("1..%d\n", results);
	print_shown();
	return missing ? 1 : 0;
}
