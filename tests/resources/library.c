/* A library of which every host has its own content under the same name: ANSWER is set by who compiles it. */
int answer(void) { return ANSWER; }
