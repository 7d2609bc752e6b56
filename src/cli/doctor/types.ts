export interface Finding {
  check: string
  /** ok; note: works, but know this; warn: will hurt one day; fail: something asked for cannot work */
  state: 'ok' | 'note' | 'warn' | 'fail'
  detail: string
  /** what to do, a full sentence; only where there is something to do */
  fix?: string
}

export const ok = (check: string, detail: string): Finding => ({ check, state: 'ok', detail })
export const note = (check: string, detail: string, fix?: string): Finding => finding(check, 'note', detail, fix)
export const warn = (check: string, detail: string, fix?: string): Finding => finding(check, 'warn', detail, fix)
export const fail = (check: string, detail: string, fix?: string): Finding => finding(check, 'fail', detail, fix)

function finding(check: string, state: Finding['state'], detail: string, fix: string | undefined): Finding {
  return fix === undefined ? { check, state, detail } : { check, state, detail, fix }
}

export function codeOf(error: unknown): string {
  return String((error as NodeJS.ErrnoException | undefined)?.code ?? error)
}
