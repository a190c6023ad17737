// What the page says, in both languages. `{name}` is filled in by `say`.

const STRINGS = {
  en: {
    model: "Model",
    newChat: "New chat",
    forgetKey: "Forget key",
    theme: "Light or dark",
    keyTitle: "Your key",
    keyHelp: "The gateway answers those who have a key. Its administrator makes one with:",
    keyLabel: "API key (kept in this tab only)",
    keyUse: "Use key",
    system: "System prompt",
    systemHint: "How the model should behave",
    empty: "Nothing said yet.",
    log: "Conversation",
    message: "Message",
    messageHint: "Message (Enter sends, Shift+Enter breaks the line)",
    send: "Send",
    stop: "Stop",
    you: "You",
    answering: "{model} is answering",
    answered: "The answer is complete",
    stopped: "stopped",
    facts: "{prompt} in · {completion} out · first after {first} s · {speed} tok/s",
    noModels: "This key may use no model.",
    unreachable: "The gateway does not answer. Is it running?",
    cut: "The answer broke off.",
    otherLanguage: "中文",
  },
  zh: {
    model: "模型",
    newChat: "新对话",
    forgetKey: "清除密钥",
    theme: "明暗主题",
    keyTitle: "输入密钥",
    keyHelp: "网关凭密钥访问。管理员用下面的命令创建：",
    keyLabel: "API 密钥（只保存在当前标签页）",
    keyUse: "使用密钥",
    system: "系统提示词",
    systemHint: "规定模型的角色与行为",
    empty: "还没有对话。",
    log: "对话",
    message: "消息",
    messageHint: "输入消息（Enter 发送，Shift+Enter 换行）",
    send: "发送",
    stop: "停止",
    you: "你",
    answering: "{model} 正在回答",
    answered: "回答完毕",
    stopped: "已停止",
    facts: "输入 {prompt} · 输出 {completion} · 首字 {first} 秒 · {speed} tok/s",
    noModels: "此密钥没有可用的模型。",
    unreachable: "网关没有响应，请确认它正在运行。",
    cut: "回答中断。",
    otherLanguage: "English",
  },
};

let language = document.documentElement.lang === "zh" ? "zh" : "en";

export function say(name, values = {}) {
  return STRINGS[language][name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

/** Show every marked text of the page in `next`, or in the present language. */
export function speak(next = language) {
  language = next;
  document.documentElement.lang = next === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = say(node.dataset.text);
  for (const node of document.querySelectorAll("[data-placeholder]")) node.placeholder = say(node.dataset.placeholder);
  for (const node of document.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", say(node.dataset.label));
    if (node.tagName === "BUTTON") node.title = say(node.dataset.label);
  }
}

export function otherLanguage() {
  return language === "zh" ? "en" : "zh";
}
