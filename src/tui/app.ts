/** The screen in ink: lines that were laid out elsewhere, one Text each, and keys by name. */
import { Box, type Instance, render, Text, useApp, useInput, usePaste, useWindowSize } from 'ink'
import { createElement as h, memo, type ReactElement, useEffect, useSyncExternalStore } from 'react'
import type { Controller } from './controller.ts'
import { keysOf } from './keys.ts'
import { ansi } from './line.ts'

export interface Changes {
  /** tells that something may look different; many at once are one */
  tell(): void
  subscribe(listener: () => void): () => void
  version(): number
}

export function changes(): Changes {
  const listeners = new Set<() => void>()
  let version = 0
  let told = false
  return {
    tell() {
      if (told) return
      told = true
      setImmediate(() => {
        told = false
        version += 1
        for (const listener of listeners) listener()
      })
    },
    subscribe(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    version: () => version,
  }
}

type Suspend = (callback: () => void) => Promise<void>

interface AppProps {
  controller: Controller
  changes: Changes
  style: { colour: boolean; attributes: boolean }
  onSuspend(suspend: Suspend): void
}

const Row = memo(
  ({ text }: { text: string }): ReactElement =>
    h(Box, { height: 1, flexShrink: 0 }, h(Text, { wrap: 'truncate-end' }, text)),
)

function App({ controller, changes, style, onSuspend }: AppProps): ReactElement {
  useSyncExternalStore(changes.subscribe, changes.version)
  const { columns, rows } = useWindowSize()
  const { suspendTerminal } = useApp()
  useEffect(() => onSuspend(suspendTerminal as Suspend), [onSuspend, suspendTerminal])
  useInput((input, key) => {
    for (const name of keysOf(input, key)) controller.key(name)
  })
  // What is pasted is text, never keys: there may be a job to be killed in every letter.
  usePaste((text) => controller.paste(text))
  const lines: ReactElement[] = []
  for (const l of controller.frame({ columns, rows })) lines.push(h(Row, { text: ansi(l, style) }))
  return h(Box, { flexDirection: 'column', width: columns, height: rows, overflow: 'hidden' }, ...lines)
}

export function mount(props: AppProps & { stdin: NodeJS.ReadStream; stdout: NodeJS.WriteStream }): Instance {
  const { stdin, stdout, ...rest } = props
  return render(h(App, rest), {
    stdin,
    stdout,
    alternateScreen: true,
    incrementalRendering: true,
    exitOnCtrlC: false,
    // Of CI's variables nothing follows for a person at a terminal.
    interactive: true,
    patchConsole: false,
  })
}
