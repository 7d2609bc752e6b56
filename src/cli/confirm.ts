import { createInterface } from 'node:readline/promises'

/** Asks on a terminal, on stderr; without one there is nobody to ask, and what was typed is meant. Anything but y or yes is no. */
export async function confirmed(question: string): Promise<boolean> {
  if (!process.stdin.isTTY || !process.stderr.isTTY) return true
  const lines = createInterface({ input: process.stdin, output: process.stderr })
  try {
    // the end of the input is no answer
    const answer = await Promise.race([
      lines.question(`${question} [y/N] `),
      new Promise<string>((resolve) => lines.once('close', () => resolve('\n'))),
    ])
    if (answer === '\n') process.stderr.write(answer)
    return /^y(es)?$/i.test(answer.trim())
  } finally {
    lines.close()
  }
}
