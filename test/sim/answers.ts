/** What the simulated handlers write: enough to tell whose it is and whether it is whole. */
export interface Maker {
  id: string
  epoch: number
  owner: string
}

export function answerText(m: Maker, what: string): string {
  return `${JSON.stringify({ ...m, what })}#`
}

export function diskText(m: Maker): string {
  return answerText(m, 'disk')
}

/** undefined for a torn file */
export function readAnswer(text: string): Maker | undefined {
  const body = text.trimEnd()
  if (!body.endsWith('#')) return undefined
  try {
    return JSON.parse(body.slice(0, -1))
  } catch {
    return undefined
  }
}
