/** Bytes a second over the last few seconds; undefined until there is something to say. */
export function speedometer(
  start: number,
  now: () => number = () => performance.now(),
): (done: number) => number | undefined {
  const WINDOW_MS = 5000
  const seen: { at: number; done: number }[] = [{ at: now(), done: start }]
  return (done) => {
    const at = now()
    const last = seen.at(-1)!
    if (at - last.at >= 100) seen.push({ at, done })
    while (seen.length > 2 && at - seen[1]!.at > WINDOW_MS) seen.shift()
    const first = seen[0]!
    return at - first.at < 500 ? undefined : Math.round(((done - first.done) / (at - first.at)) * 1000)
  }
}
