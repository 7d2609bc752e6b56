/** Bars on a terminal, one below the other: loaded only where there is one. */

export interface Bars {
  /** makes the bar of that key, or moves it; `percent` and `text` are shown as they are */
  show(key: string, done: number, words: { percent: string; name: string; text: string }): void
  /** a sentence above the bars */
  log(sentence: string): void
  /** leaves them as they are now; a second call does nothing */
  stop(): void
}

export async function openBars(stream: NodeJS.WriteStream): Promise<Bars> {
  const { default: cliProgress } = await import('cli-progress')
  const multi = new cliProgress.MultiBar(
    {
      stream,
      hideCursor: true,
      clearOnComplete: false,
      stopOnComplete: false,
      emptyOnZero: true,
      autopadding: true,
      barsize: 24,
      fps: 8,
      linewrap: false,
      gracefulExit: false,
      barCompleteChar: '█',
      barIncompleteChar: '░',
      format: ' {bar} {percent} {name}  {text}',
    },
    cliProgress.Presets.shades_classic,
  )
  const open = new Map<string, ReturnType<typeof multi.create>>()
  let stopped = false
  return {
    show(key, done, words) {
      const bar = open.get(key)
      if (bar === undefined) open.set(key, multi.create(100, done, words))
      else bar.update(done, words)
    },
    log: (sentence) => multi.log(`${sentence}\n`),
    stop() {
      // Once: a second stop would move the cursor up, over what was printed since.
      if (stopped) return
      stopped = true
      multi.update()
      multi.stop()
    },
  }
}
